"""Align FLUX with human preference: Direct-Align and SRPO on Ray, DeepSpeed and MLflow."""

__version__ = "0.1.0"

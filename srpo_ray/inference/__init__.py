"""Inference with trained runs on any number of GPUs: samples, paired evaluations and export."""

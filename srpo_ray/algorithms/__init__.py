"""Algorithms: losses from prompts, policy and rewards, one file per algorithm; no Ray, no DeepSpeed, no I/O."""

from srpo_ray.algorithms.base import Algorithm, Batch, Loss, LossOutput
from srpo_ray.algorithms.registry import build_algorithm

__all__ = ["Algorithm", "Batch", "Loss", "LossOutput", "build_algorithm"]

"""Command line of `srpo-ray`: one file per command. No command imports torch, Ray or pydantic before it runs."""

from srpo_ray.cli.dispatch import main

__all__ = ["main"]

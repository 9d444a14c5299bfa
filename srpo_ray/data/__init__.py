"""Prompts in a reproducible order, real images with captions, and their cached features."""

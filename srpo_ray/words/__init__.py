"""Probe of a reward model's response to candidate control words, without training."""

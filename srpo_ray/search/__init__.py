"""Experiments: search of settings, training with several seeds, ablations, on a shared reward pool, resumable."""

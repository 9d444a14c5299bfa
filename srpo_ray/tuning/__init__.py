"""Preference sweeps: search space, trials on a shared reward pool, ranking, resume."""

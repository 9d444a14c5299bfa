"""A run on disk: its folder, checkpoints and results. No Ray."""

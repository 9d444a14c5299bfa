"""Project folders that `srpo-ray init` writes: a study of the user's own, outside this repository."""

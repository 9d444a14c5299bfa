"""Images of trained runs, on any number of GPUs: samples, and base against tuned."""

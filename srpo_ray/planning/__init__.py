"""Estimates of memory, communication and time of a run, on tensors without data: no weights, no GPU, no Ray."""

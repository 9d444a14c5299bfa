"""What a run will hold, send and take, worked out on tensors without data: no weights, no GPU, no Ray."""

"""Cache on disk of values that are computed once: text features and latents."""

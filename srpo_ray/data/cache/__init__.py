"""Values that are computed once and kept on disk: text features and latents."""

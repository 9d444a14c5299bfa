"""Section `algorithm`: one file per algorithm, and their registry. No torch, no Ray."""

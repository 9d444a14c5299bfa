"""Section `algorithm`: one file per algorithm, and the registry of them all. No torch, no ray."""

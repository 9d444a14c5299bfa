"""FLUX as a policy: loading, latents, rollout."""

"""Text-to-image flow models as policies: loading, conditioning, latents, rollouts."""

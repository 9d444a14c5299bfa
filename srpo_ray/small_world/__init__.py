"""The embedded laboratory: images with known truth, a tiny FLUX pipeline and tiny reward models."""

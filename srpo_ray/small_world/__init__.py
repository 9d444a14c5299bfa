"""Small world, the embedded test bed: images with known truth, a tiny FLUX pipeline and tiny reward models."""

"""The embedded laboratory: pictures with known truth, a tiny FLUX pipeline and tiny reward models."""

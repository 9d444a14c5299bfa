"""The driver's side of a run: checks, Ray, reward pool, Ray Train."""

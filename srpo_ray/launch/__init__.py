"""Driver of a run: checks, Ray, reward pool, Ray Train."""

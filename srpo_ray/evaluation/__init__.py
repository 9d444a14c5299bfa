"""What a run is evaluated by: the held-out evaluator, image statistics, galleries, and statistics of results."""

"""What a run is evaluated by: the held-out evaluator, image statistics, galleries, and the sweep's table and report."""

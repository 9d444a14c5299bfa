"""What a run is judged by: the held-out panel, image statistics, galleries, and the sweep's table and report."""

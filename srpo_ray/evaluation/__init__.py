"""What a run is judged by: the held-out panel, image statistics, galleries, and statistics of results."""

"""Images and text queries to scores: reward models, and the Ray pool that serves them to the trainers."""

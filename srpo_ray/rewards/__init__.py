"""Reward models, which map images and text queries to scores, and the Ray pool that serves them to the trainers."""

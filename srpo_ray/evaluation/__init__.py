"""Evaluation of runs: held-out evaluator, image statistics, reward-hacking detection, galleries, statistics."""

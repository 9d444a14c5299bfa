"""Rewards that a server computes: requests, answers, and one file per reward."""

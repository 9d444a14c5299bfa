"""Reward models as Ray actors: replicas, router and client."""

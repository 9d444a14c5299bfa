"""Reward models in Ray actors of their own: replicas, router, client and the bridge into autograd."""

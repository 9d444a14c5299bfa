"""Reward models in Ray actors of their own: replicas, dispatcher, client and the bridge into autograd."""

"""Prompts in a resumable order, and their text features."""

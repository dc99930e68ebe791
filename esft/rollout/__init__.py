"""Rollouts: from rows and a model to rewards."""

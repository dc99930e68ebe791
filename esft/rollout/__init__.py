"""Rollouts: from rows and a model to answers, rewards and evaluations.

Promises greedy answers and log-probabilities that are the same for the same weights and batch
size, and that nothing is evaluated twice. Knows nothing of members, noise, steps or runs.
"""

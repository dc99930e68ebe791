"""The words by which settings say how a task is scored and on which rows."""

SCORINGS = ("choice", "generate", "exact")
"""By the log-probability of each option, by a greedy answer, or by whether the greedy answer would
be the reference."""
REWARDS = ("correct", "prob", "logprob")
"""0 or 1, the probability of the right option, or the log-probability of the reference, a token."""
GRADERS = ("exact", "contains", "number", "choice", "math")
"""How answers to a user's own rows can be graded."""
SPLITS = ("train", "validation", "test")
"""The rows that a task may have."""

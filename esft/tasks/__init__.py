"""Tasks: the rows they have, the questions a row asks, and how its answers are graded.

Promises that train, holdout and test rows never overlap, and that any answer gets a grade.
Knows nothing of models, tensors or runs.
"""

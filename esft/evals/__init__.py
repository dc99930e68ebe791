"""What tuning did: tasks, drift and KL on the steps of a run, against its base model.

Promises paired comparisons on the same rows, and that nothing is measured twice.
Knows nothing of pages and terminals: it returns, and writes to eval.json, plain results.
"""

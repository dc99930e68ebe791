"""What this machine does in a second: the engine, rollouts and a step, against the plain ways.

Promises pairs: both ways of a figure take turns in one process, on the same tensors and rows.
Knows nothing of pages and terminals: it returns plain results.
"""

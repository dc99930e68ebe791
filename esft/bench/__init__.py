"""What this machine does in a second, against the plain ways, and whether it does it right.

Promises pairs: both ways of a figure take turns in one process, on the same tensors and rows.
Knows nothing of pages and terminals: it returns plain results.
"""

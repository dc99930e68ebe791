"""Comparisons of evaluations on the same rows, and what can be said of them.

It promises the error rates that its docstrings name, without resampling and without a
seed, but for `signal`, which deals rewards anew by a seed that is given.
It knows numbers alone: no model, no task, no file, and it loads no torch.
"""

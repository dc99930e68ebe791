"""Comparisons of evaluations on the same rows, and what can be said of them."""

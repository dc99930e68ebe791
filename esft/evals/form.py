"""The form of eval.json, which `esft eval` writes and `esft report` reads."""

EVAL_FORMAT = 1
"""Told in the file; another number is another form."""

"""Tuning: from a recipe to the tuned model, and the model of any step again.

Promises that a run killed at any instant and resumed ends with the same bits, and that the journal
and the base model are the tuned model. Knows nothing of reports and commands.
"""

"""Tuning: from a recipe to the tuned model, and the model of any step again."""

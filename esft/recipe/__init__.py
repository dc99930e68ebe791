"""Recipes: every setting of a run, declared once, checked before a model is loaded.

What is wrong is told all at once, with its file and key. Knows nothing of models, rows or runs.
"""

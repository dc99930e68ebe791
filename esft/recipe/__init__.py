"""Recipes: settings, and the text they are kept in."""

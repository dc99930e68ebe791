"""Graders: pure functions from an answer to a score."""

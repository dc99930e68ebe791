"""Graders: pure functions from a row and an answer in text to a Grade; nothing is evaluated.

They take time linear in the answer, and where they cannot promise that (mathematics, a user's own
program) they run in a process with limits, so that none stops a run. They know no model.
"""

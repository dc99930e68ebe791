"""Run folders: what a run leaves behind, by name, and how it stands.

Promises that nothing is ever half there, and that a list of runs is read without loading torch.
Knows nothing of how steps are made.
"""

"""A step of a run as a model folder with its card, or as a journal to mail.

Promises: what appears was read again from the disk and is the model that was in memory; else
nothing appears. Knows nothing of steps: `tuning/rebuild.py` brings the model there.
"""

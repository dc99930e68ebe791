"""Models: found by name, checked before they are paid for, loaded whole, saved whole.

Promises: every weight comes from the checkpoint, is a finite float, and no pickle or code of the
checkpoint runs unasked. Knows nothing of noise, tasks or runs.
"""

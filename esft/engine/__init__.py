"""The ES engine: noise, members, steps, and the drift that a run owns, kept in a journal.

It promises bits: a member leaves none behind, and a journal rebuilds those of every step.
It knows tensors and numbers, and nothing of text, tasks or run folders.
"""

from esft.engine.drift import Drift
from esft.engine.members import Member
from esft.engine.noise import noise
from esft.engine.perturb import perturbed, visiting
from esft.engine.weights import Weights

__all__ = ["Drift", "Member", "Weights", "noise", "perturbed", "visiting"]

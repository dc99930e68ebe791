"""The ES engine: noise, members, and the drift that a run owns."""

from esft.engine.drift import Drift
from esft.engine.members import Member
from esft.engine.noise import noise
from esft.engine.perturb import perturbed
from esft.engine.weights import Weights

__all__ = ["Drift", "Member", "Weights", "noise", "perturbed"]

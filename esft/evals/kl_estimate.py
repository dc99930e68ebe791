"""The KL divergence per token between two models, from what both say of one's continuations."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from esft.evals.kl_laws import Laws
from esft.evals.results import KlEstimate

FAR = 10.0
"""A token whose log-probability differs by more than this is far from where it was."""


def estimate(drawn: Sequence[Laws], other: Sequence[Laws]) -> KlEstimate:
    """Estimate KL(p||q) per token.

    A ratio of two sums over prompts, with the standard error of its linear part.

    Args:
        drawn: what p says of continuations drawn from p, one a prompt.
        other: what q says of the same tokens.
    """
    sums = [float(kl_of_places(p, q).sum()) for p, q in zip(drawn, other, strict=True)]
    counts = [len(p.drawn) for p in drawn]
    far = [int(((q.drawn - p.drawn).abs() > FAR).sum()) for p, q in zip(drawn, other, strict=True)]
    tokens = sum(counts)
    kl = sum(sums) / tokens
    return KlEstimate(
        kl=kl,
        se=_ratio_error(sums, counts, kl),
        tokens=tokens,
        prompts=len(counts),
        far=sum(far) / tokens,
    )


def kl_of_places(p: Laws, q: Laws) -> Tensor:
    """Return what each place of a continuation drawn from p adds to KL(p||q), (targets,) float64.

    Summed over the tokens that are looked at one by one, with all others as one more; where the
    token drawn is among those others, plus r - 1 - log r with r = q/p among the others alone. By
    the chain rule its mean over draws from p is KL(p||q), for any choice of tokens: unbiased,
    never negative, exactly 0 where p = q.

    Only the others can be misjudged: where much of q lies on tokens among them that p hardly
    ever draws, such a token counts as q/p when it comes, and as nothing in the many samples in
    which it does not come; value and standard error are then mostly too low, by at most the KL
    among the others times their probability. Finite values stay finite: q/p <= 1/p, and what is
    below e^-33 is never drawn.
    """
    p_told, q_told = p.told.double(), q.told.double()
    terms = q_told.exp() - p_told.exp() - p_told.exp() * (q_told - p_told)
    # What has probability 0 under p adds q alone: 0 * log(0/q) counts as 0.
    terms = torch.where(p_told == -torch.inf, q_told.exp(), terms)
    among = (q.drawn.double() - q_told[:, -1]) - (p.drawn.double() - p_told[:, -1])
    rest = torch.where(p.among_others, torch.expm1(among) - among, 0.0)
    # Rounding alone can bring a sum of terms that are not negative below 0.
    return (terms.sum(dim=-1) + rest).clamp(min=0)


def _ratio_error(sums: list[float], counts: list[int], ratio: float) -> float:
    number = len(sums)
    if number == 1 or not math.isfinite(ratio):
        return math.nan
    residuals = [total - ratio * count for total, count in zip(sums, counts, strict=True)]
    squares = math.fsum(residual**2 for residual in residuals)
    return math.sqrt(squares * number / (number - 1)) / sum(counts)

"""KL divergence between the base model p0 and the tuned model p, in both directions."""

from esft.rollout.kl import (
    KlEstimate,
    KlSettings,
    TokenDistributions,
    estimate,
    sampled_continuations,
    told_again,
)


def kl_between(
    model, tokenizer, drift, settings: KlSettings, base: list[TokenDistributions] | None = None
) -> tuple[KlEstimate, KlEstimate]:
    """Estimate (KL(p0||p), KL(p||p0)) per token: base to tuned, then tuned to base.

    The first on continuations of the base model (`base`; None draws them), the second on the tuned
    model's own. The weights, which are the tuned ones, go to the base once and come back to their
    exact bits. TaskError if a prompt fills the model's context.
    """
    tuned = sampled_continuations(model, tokenizer, settings, "tuned")
    with drift.at_base():
        if base is None:
            base = sampled_continuations(model, tokenizer, settings, "base")
        tuned_told_by_base = told_again(model, tuned, settings)
    return estimate(base, told_again(model, base, settings)), estimate(tuned, tuned_told_by_base)

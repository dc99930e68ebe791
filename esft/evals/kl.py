"""KL divergence between the base model p0 and the tuned model p, in both directions."""

from dataclasses import dataclass

from esft.engine.drift import Drift
from esft.engine.noise import derived_seed
from esft.errors import TaskError
from esft.evals.kl_estimate import estimate
from esft.evals.kl_laws import Laws, laws_at, likeliest_laws
from esft.evals.results import KlEstimate
from esft.rollout.batches import Batches
from esft.rollout.encode import EncodedRows
from esft.rollout.logprobs import Continuation
from esft.rollout.sample import sampled

PROMPTS = 50
"""Prompts of a task, by default."""
NEW_TOKENS = 256
"""Most tokens drawn after a prompt, by default."""
TOP = 64
"""Tokens of each place over which is summed: 8 MB of host memory for 10,000 places."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Continuations drawn from a model, with what it says of them."""

    continuations: tuple[Continuation, ...]
    laws: tuple[Laws, ...]


def kl_between(
    model,
    tokenizer,
    drift: Drift,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
    *,
    top: int = TOP,
    base: Drawn | None = None,
) -> tuple[KlEstimate, KlEstimate]:
    """Estimate (KL(p0||p), KL(p||p0)) per token: base to tuned, then tuned to base.

    The first on continuations of the base model, the second on the tuned model's own. The
    weights go to the base and back once.

    Args:
        model: at its tuned weights, which come back to their exact bits.
        tokenizer: its tokenizer.
        drift: of the model's weights.
        prompts: as tokens, one prompt at least.
        max_new_tokens: cap on a continuation; lower where the model's context asks for it.
        batches: how many sequences at a time.
        seed: of the draws, which are others in the two directions.
        top: the likeliest tokens of each place, over which is summed; the size of the
            vocabulary sums exactly over all of it.
        base: what `drawn_at_base` gave for the same prompts and settings; None draws it.

    Raises:
        ValueError: if there is no prompt.
        TaskError: if a prompt fills the model's context.
        AnchorError: if a step was interrupted half-way.
    """
    count = _new_tokens(model, prompts, max_new_tokens)
    tuned = _drawn(model, tokenizer, prompts, count, batches, _seed("tuned", seed), top)
    with drift.at_base():
        if base is None:
            base = drawn_at_base(model, tokenizer, prompts, count, batches, seed, top=top)
        base_of_tuned = _laws_like(model, tuned, batches)
    tuned_of_base = _laws_like(model, base, batches)
    return estimate(base.laws, tuned_of_base), estimate(tuned.laws, base_of_tuned)


def drawn_at_base(
    model,
    tokenizer,
    prompts: list[tuple[int, ...]],
    max_new_tokens: int,
    batches: Batches,
    seed: int,
    *,
    top: int = TOP,
) -> Drawn:
    """Return what `kl_between` draws from the base model, which the weights must be at.

    All steps of a run can be compared with it.
    """
    count = _new_tokens(model, prompts, max_new_tokens)
    return _drawn(model, tokenizer, prompts, count, batches, _seed("base", seed), top)


def prompts_of(encoded: EncodedRows, limit: int = PROMPTS) -> list[tuple[int, ...]]:
    """Return the tokens that the first `limit` rows begin with.

    Those of the first question where an answer is generated, of the context of the first option
    where options are scored, and of what stands before the reference where that is.
    """
    if encoded.prompts:
        return [prompts[0] for prompts in encoded.prompts[:limit]]
    if encoded.options:
        return [_context(options[0]) for options in encoded.options[:limit]]
    return [_context(references[0]) for references in encoded.references[:limit]]


def _context(continuation: Continuation) -> tuple[int, ...]:
    return continuation.tokens[: len(continuation.tokens) - len(continuation.targets) + 1]


def _new_tokens(model, prompts: list[tuple[int, ...]], most: int) -> int:
    """Return how many tokens may follow every prompt, `most` at most."""
    if not prompts:
        raise ValueError("there is no prompt, expected one at least")
    context = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(prompt) for prompt in prompts)
    if context is None or longest + most <= context:
        return most
    if longest >= context:
        raise TaskError(
            f"a prompt has {longest:,} tokens, expected fewer than {context:,}, the model's "
            "context, so that something can follow it",
            hint="leave the row out, or take a model with a longer context",
        )
    return context - longest


def _seed(side: str, seed: int) -> int:
    return derived_seed(f"{side} continuations", seed)


def _drawn(
    model,
    tokenizer,
    prompts: list[tuple[int, ...]],
    count: int,
    batches: Batches,
    seed: int,
    top: int,
) -> Drawn:
    found = sampled(model, tokenizer, prompts, count, batches, seed)
    continuations = [
        Continuation(prompt + tokens[:-1], tokens)
        for prompt, tokens in zip(prompts, found, strict=True)
    ]
    laws = likeliest_laws(model, continuations, batches, top)
    return Drawn(continuations=tuple(continuations), laws=tuple(laws))


def _laws_like(model, drawn: Drawn, batches: Batches) -> list[Laws]:
    """Return what the model as it is now says of the tokens that were looked at."""
    return laws_at(model, list(drawn.continuations), batches, [each.top for each in drawn.laws])

"""How an exported model is compared with the tuned one: on which prompts, and by what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from esft.errors import TaskError
from esft.models.load import LoadedModel
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers
from esft.rollout.logprobs import output_layer_sees
from esft.tasks.registry import get_task
from esft.tasks.rows import read_split
from esft.tasks.task import Question, Row
from esft.tuning.rebuild import Source
from esft.tuning.tasks import task_and_rows
from esft.tuning.watcher import Watcher

PROMPTS = 32
NEW_TOKENS = 32  # of a greedy answer, at most
_BATCH = 8  # prompts answered at a time: answers in half precision can depend on it
_LOGITS = 2**24  # kept at most, but for the last position of each prompt: 67 MB in float32

Prompt = Question | str  # plain text: what stands before the options of a choice


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a model makes of some prompts."""

    logits: Tensor  # at their last positions, (positions, vocabulary), float32 on the CPU
    answers: tuple[str, ...]  # greedy ones
    batch: int  # prompts that were answered at a time


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model against the one it was converted from."""

    positions: int  # whose logits were compared
    logits: int
    largest_difference: float  # of a logit
    mean_kl: float  # KL(tuned || exported) in nats, mean over the positions
    same_answers: int


def holdout_rows(source: Source, watcher: Watcher) -> tuple[Row, ...]:
    """Return the run's holdout rows; none where they are not found, or for a journal alone."""
    if source.run is None:
        return ()
    try:
        return task_and_rows(source.recipe.targets[-1])[1].holdout
    except TaskError as error:
        watcher.notice(f"{error}; questions of conciseness are compared instead")
        return ()


def find_prompts(source: Source, rows: Sequence[Row]) -> tuple[list[Prompt], str]:
    """Return PROMPTS prompts, and in words where they come from.

    The first of the run's holdout `rows`, then questions that come with esft.
    """
    own: list[Prompt] = []
    if rows:
        settings = source.recipe.targets[-1]
        task = settings.chosen()
        scoring = task.choose_scoring(settings.scoring, settings.reward)
        own = [
            row.options[row.gold].context if scoring == "choice" else row.questions[0]
            for row in rows[:PROMPTS]
        ]
    conciseness = read_split(get_task("conciseness"), "validation")
    shipped = [row.questions[0] for row in conciseness]
    more = [prompt for prompt in shipped if prompt not in own][: PROMPTS - len(own)]
    parts = []
    if own:
        name = Path(source.recipe.targets[-1].name).name  # of a file: no folders
        parts.append(f"{len(own)} holdout rows of {name}")
    if more:
        parts.append(f"{len(more)} questions of conciseness, which come with esft")
    return [*own, *more], " and ".join(parts)


def tokens_of(prompt: Prompt, tokenizer) -> tuple[int, ...]:
    """Return a prompt as a rollout would give it to the model; plain where that is refused."""
    if not isinstance(prompt, str):
        try:
            return encode_prompt(tokenizer, prompt)
        except TaskError:
            prompt = prompt.prompt
    return tuple(tokenizer(prompt)["input_ids"])


def output_of(
    loaded: LoadedModel, tokens: Sequence[tuple[int, ...]], batch: int = _BATCH
) -> ModelOutput:
    """Return what a model makes of prompts, cut at the front where its context asks for it."""
    model = loaded.model
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None:
        tokens = [prompt[-max(1, limit - NEW_TOKENS) :] for prompt in tokens]
    keep = max(1, _LOGITS // (len(tokens) * model.get_output_embeddings().weight.shape[0]))
    # Contiguous, since for a slice a CPU copies the layer's whole matrix.
    with output_layer_sees(model, lambda hidden: hidden[:, -keep:].contiguous()):
        logits = torch.cat([_logits(model, prompt) for prompt in tokens])
        batches = Batches(batch)
        answers = greedy_answers(model, loaded.tokenizer, tokens, NEW_TOKENS, batches)
    if batches.size != batch:  # memory ran out on the way: once more, all in the smaller batch
        return output_of(loaded, tokens, batches.size)
    return ModelOutput(logits=logits, answers=tuple(answer.text for answer in answers), batch=batch)


def compare(tuned: ModelOutput, exported: ModelOutput) -> Conversion:
    """Compare what two models make of the same prompts."""
    largest, total = 0.0, 0.0
    # In float64 and a few positions at a time: a vocabulary can have 150,000 tokens.
    for ours, theirs in zip(tuned.logits.split(16), exported.logits.split(16), strict=True):
        ours, theirs = ours.double(), theirs.double()
        largest = max(largest, float((ours - theirs).abs().max()))
        p, q = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
        total += float((p.exp() * (p - q)).sum())
    answers = zip(tuned.answers, exported.answers, strict=True)
    return Conversion(
        positions=len(tuned.logits),
        logits=tuned.logits.numel(),
        largest_difference=largest,
        mean_kl=total / len(tuned.logits),
        same_answers=sum(one == other for one, other in answers),
    )


@torch.inference_mode()
def _logits(model, tokens: tuple[int, ...]) -> Tensor:
    # One prompt at a time: nothing depends on padding, and memory is that of one prompt.
    batch = torch.tensor([tokens], device=model.device)
    return model(input_ids=batch, use_cache=False).logits[0].float().cpu()

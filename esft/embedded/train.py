"""Train the embedded model from nothing: python -m esft.embedded.train --out DIR."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from esft.embedded.card import Made, card
from esft.embedded.examples import IGNORED, Mixture, accuracy, encode
from esft.embedded.form import character_tokenizer, untrained_model
from esft.tasks.synthetic import SYNTHETIC, TARGETS
from esft.tasks.synthetic_rows import puzzles

MEASURED = 400
"""Puzzles of a target task that say, while training, how well it is known."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the model is trained."""

    steps: int = 4000
    """Updates, each from one batch."""
    batch: int = 128
    """Puzzles of an update."""
    learning_rate: float = 2e-3
    """Of AdamW at its highest, after `warmup` steps; from there a cosine down to 0."""
    warmup: int = 100
    """Steps in which the learning rate rises."""
    weight_decay: float = 0.01
    seed: int = 0
    """Of the first weights and of the puzzles."""
    held_at: float = 0.2
    """Validation accuracy of a target task at which the model gets no more puzzles of it."""
    most: int = 16
    """Puzzles of a target task in a batch where its accuracy is 0."""
    every: int = 25
    """Steps between two measurements of the target tasks."""


def train(
    training: Training,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    on_step: Callable[[int, float, dict[str, float]], None],
) -> None:
    """Train `model` in place, by backpropagation.

    The target tasks are to stay half known: the nearer one is to `held_at`, the fewer of its
    puzzles come, in proportion. Their accuracy still swings while the learning rate is high.

    Args:
        training: how.
        model: an untrained one.
        tokenizer: the model's.
        on_step: called after each step, with its number from 1, its loss, and the validation
            accuracy of each target task when last measured.
    """
    mixture = Mixture(training.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    measured = {task.name: list(puzzles(task.name, "validation"))[:MEASURED] for task in TARGETS}
    known = dict.fromkeys(measured, 0.0)
    for step in range(training.steps):
        if step and step % training.every == 0:
            known = {name: accuracy(model, tokenizer, some) for name, some in measured.items()}
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step)
        of_targets = {name: puzzles_of(training, share) for name, share in known.items()}
        some = mixture.take(training.batch, of_targets)
        on_step(step + 1, _update(model, optimizer, *encode(tokenizer, some)), known)


def learning_rate(training: Training, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    done = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def puzzles_of(training: Training, known: float) -> int:
    """How many puzzles of a target task a batch has whose validation accuracy is `known`."""
    return round(training.most * max(0.0, 1 - known / training.held_at))


def _update(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, tokens: Tensor, targets: Tensor
) -> float:
    """Go one step down the loss on a batch, and return that loss."""
    logits = model(tokens).logits  # (batch, longest, vocabulary)
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--steps", default=Training.steps, show_default=True, help="Number of updates.")
@click.option("--batch", default=Training.batch, show_default=True, help="Puzzles of an update.")
@click.option("--seed", default=Training.seed, show_default=True, help="Of weights and puzzles.")
@click.option("--threads", default=1, show_default=True, help="CPU threads; the bits depend on it.")
def main(out: Path, steps: int, batch: int, seed: int, threads: int) -> None:
    """Train the embedded model from nothing; write it, its tokenizer and its card to --out."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    training = Training(steps=steps, batch=batch, seed=seed)
    model, tokenizer = untrained_model(seed), character_tokenizer()
    started = time.perf_counter()
    train(training, model, tokenizer, _show)
    made = Made(
        training=training,
        command=f"python -m esft.embedded.train --out DIR --steps {steps} --batch {batch} "
        f"--seed {seed} --threads {threads}",
        threads=threads,
        seconds=time.perf_counter() - started,
        weights=model.num_parameters(),
        scores=_scores(model, tokenizer),
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    (out / "README.md").write_text(card(made), encoding="utf-8")


def _scores(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    model.eval()
    scores = {}
    for task in SYNTHETIC:
        scores[task.name] = accuracy(model, tokenizer, list(puzzles(task.name, "test")))
        click.echo(f"{task.name:20} {scores[task.name]:.3f}")
    return scores


def _show(step: int, loss: float, known: dict[str, float]) -> None:
    if step % 50 == 0:
        shares = ", ".join(f"{name} {share:.3f}" for name, share in known.items())
        click.echo(f"step {step}: loss {loss:.4f}; {shares}")


if __name__ == "__main__":
    main()

"""Train the embedded model from nothing: python -m esft.embedded.train --out DIR."""

import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from string import ascii_letters, digits, punctuation

import click
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from esft.tasks.synthetic import KINDS, PRIORS, SYNTHETIC, TARGETS, Draws, Puzzle, puzzles, stream

PAD, END, UNKNOWN = "<pad>", "<end>", "<unk>"
VOCABULARY = (PAD, END, UNKNOWN, "\n", " ", *digits, *ascii_letters, *punctuation)
"""A token for each printable character of ASCII, so that any short English text can go in."""
ANSWER_SIGN = "="
"""What stands between question and answer."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    f"{ANSWER_SIGN}{{{{ message['content'] }}}}{END}"
    "{% else %}"
    "{% if not loop.first and loop.previtem['role'] != 'assistant' %} {% endif %}"
    "{{ message['content'] }}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ANSWER_SIGN}{{% endif %}}"
)
"""question=answer<end>, over and over; questions without an answer are joined by a space."""
IGNORED = -100
"""The target of a position that does not count: all but those of the answer and its end."""
MEASURED = 400
"""Puzzles of a target task that say, while training, how well it is known."""
_AT_ONCE = 500  # puzzles in one forward pass
_CARD = Path(__file__).with_name("card_template.md")


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


def untrained_model(seed: int) -> LlamaForCausalLM:
    """A Llama of 0.86 million weights in float32, with random weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=VOCABULARY.index(END),
        pad_token_id=VOCABULARY.index(PAD),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token a character; no token is put before or behind a text."""
    # A byte-pair encoding without pairs: every character stands alone.
    numbers = {token: i for i, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.BPE(numbers, [], unk_token=UNKNOWN))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (PAD, END, UNKNOWN)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=128,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def train(
    training: Training,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    on_step: Callable[[int, float, dict[str, float]], None],
) -> None:
    """Train an untrained model in place, by backpropagation.

    The target tasks are to stay half known: the nearer one is to `held_at`, the fewer of its
    puzzles come, in proportion. Their accuracy still swings while the learning rate is high.
    After each step, from 1, `on_step` gets its number, its loss and the validation accuracy of
    each target task when last measured.
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
        tokens, targets = encode(tokenizer, mixture.take(training.batch, of_targets))
        logits = model(tokens).logits  # (batch, longest, vocabulary)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        on_step(step + 1, loss.item(), known)


def learning_rate(training: Training, step: int) -> float:
    if step < training.warmup:
        return training.learning_rate * (step + 1) / training.warmup
    done = (step - training.warmup) / max(1, training.steps - training.warmup)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def puzzles_of(training: Training, known: float) -> int:
    """How many puzzles of a target task a batch has whose validation accuracy is `known`."""
    return round(training.most * max(0.0, 1 - known / training.held_at))


class Mixture:
    """Training puzzles: equal shares of the prior tasks, and as much of each target as asked.

    They come from the train split alone, and go on where its rows end.
    """

    def __init__(self, seed: int) -> None:
        # Seed 0 is that of the task's own rows.
        names = [task.name for task in SYNTHETIC]
        self._streams = {name: stream(name, "train", seed + 1) for name in names}
        self._draws = Draws(seed)

    def take(self, rows: int, of_targets: dict[str, int]) -> list[Puzzle]:
        """`rows` puzzles, of which `of_targets` says how many are of each target task."""
        some = []
        for name, count in of_targets.items():
            some += islice(self._streams[name], count)
        while len(some) < rows:
            prior = PRIORS[self._draws.below(len(PRIORS))]
            some.append(next(self._streams[prior.name]))
        return some


def encode(tokenizer: PreTrainedTokenizerBase, some: list[Puzzle]) -> tuple[Tensor, Tensor]:
    """The tokens of puzzles with their answers, and the token that is to follow each.

    Both (puzzles, longest): padded on the right; IGNORED within the question and the padding.
    """
    texts = [f"{puzzle.prompt}{ANSWER_SIGN}{puzzle.answer}{END}" for puzzle in some]
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    longest = max(map(len, whole)) - 1
    tokens = torch.full((len(whole), longest), tokenizer.pad_token_id)
    targets = torch.full((len(whole), longest), IGNORED)
    for row, (puzzle, ids) in enumerate(zip(some, whole, strict=True)):
        answered = len(puzzle.prompt)  # where the sign stands, which the answer follows
        tokens[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, answered : len(ids) - 1] = torch.tensor(ids[answered + 1 :])
    return tokens, targets


@torch.inference_mode()
def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, some: list[Puzzle]
) -> float:
    """The share of puzzles whose answer, with its end, is what the model says.

    The greedy answer is right where every token is the argmax given those before it.
    """
    right = 0
    for start in range(0, len(some), _AT_ONCE):
        tokens, targets = encode(tokenizer, some[start : start + _AT_ONCE])
        said = model(tokens).logits.argmax(dim=-1)  # (puzzles, longest)
        right += int(((said == targets) | (targets == IGNORED)).all(dim=1).sum())
    return right / len(some)


def card(training: Training, scores: dict[str, float], **facts: object) -> str:
    """The text of README.md for a model made so on this machine, with its accuracies by task."""
    settings = asdict(training)
    rows = []
    for task in SYNTHETIC:
        score, count = scores[task.name], KINDS[task.name].sizes["test"]
        first = next(puzzles(task.name, "train"))
        rows.append(
            f"| `{task.name}` | {'prior' if task in PRIORS else 'target'} | `{first.prompt}` "
            f"| `{first.answer}` | {count:,} "
            f"| {score:.1%} +- {math.sqrt(score * (1 - score) / count):.1%} |"
        )
    return _CARD.read_text(encoding="utf-8").format(
        **settings,
        **facts,
        scores="\n".join(rows),
        sign=ANSWER_SIGN,
        machine=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        settings="\n".join(f"- {name} {value:g}" for name, value in settings.items()),
    )


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

    def show(step: int, loss: float, known: dict[str, float]) -> None:
        if step % 50 == 0:
            shares = ", ".join(f"{name} {share:.3f}" for name, share in known.items())
            click.echo(f"step {step}: loss {loss:.4f}; {shares}")

    started = time.perf_counter()
    train(training, model, tokenizer, show)
    seconds = time.perf_counter() - started
    model.eval()
    scores = {}
    for task in SYNTHETIC:
        scores[task.name] = accuracy(model, tokenizer, list(puzzles(task.name, "test")))
        click.echo(f"{task.name:20} {scores[task.name]:.3f}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out, save_jinja_files=False)
    command = "python -m esft.embedded.train --out DIR"
    command += f" --steps {steps} --batch {batch} --seed {seed} --threads {threads}"
    facts = {"command": command, "threads": threads, "minutes": seconds / 60}
    text = card(training, scores, weights=model.num_parameters(), **facts)
    (out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

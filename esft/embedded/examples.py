"""Puzzles as the embedded model is trained on them and measured with: tokens and targets."""

from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from esft.embedded.form import ANSWER_SIGN, END
from esft.tasks.draws import Draws
from esft.tasks.synthetic import PRIORS, TARGETS
from esft.tasks.synthetic_rows import Puzzle, stream

IGNORED = -100
"""The target of a position that does not count: all but those of the answer and its end."""
MEASURED_AT_ONCE = 500


def encode(tokenizer: PreTrainedTokenizerBase, some: list[Puzzle]) -> tuple[Tensor, Tensor]:
    """The tokens of puzzles with their answers, and the token that is to follow each.

    Returns:
        tokens: (puzzles, longest), padded on the right.
        targets: (puzzles, longest); IGNORED within the question and the padding.
    """
    texts = [f"{each.prompt}{ANSWER_SIGN}{each.answer}{END}" for each in some]
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    longest = max(map(len, whole)) - 1
    tokens = torch.full((len(whole), longest), tokenizer.pad_token_id)
    targets = torch.full((len(whole), longest), IGNORED)
    for row, (each, ids) in enumerate(zip(some, whole, strict=True)):
        answered = len(each.prompt)  # where the sign stands, which the answer follows
        tokens[row, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[row, answered : len(ids) - 1] = torch.tensor(ids[answered + 1 :])
    return tokens, targets


class Mixture:
    """Training puzzles: equal shares of the prior tasks, and as much of each target as asked.

    They come from the train split alone, and go on where its rows end.
    """

    def __init__(self, seed: int) -> None:
        self._streams = {
            # Seed 0 is that of the task's own rows.
            task.name: stream(task.name, "train", seed + 1)
            for task in (*PRIORS, *TARGETS)
        }
        self._draws = Draws(seed)

    def take(self, rows: int, of_targets: dict[str, int]) -> list[Puzzle]:
        """`rows` puzzles, of which `of_targets` says how many are of each target task."""
        some = [
            puzzle
            for name, count in of_targets.items()
            for puzzle in islice(self._streams[name], count)
        ]
        while len(some) < rows:
            prior = PRIORS[self._draws.below(len(PRIORS))]
            some.append(next(self._streams[prior.name]))
        return some


@torch.inference_mode()
def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, some: list[Puzzle]
) -> float:
    """The share of puzzles whose answer, with its end, is what the model says.

    One forward pass: where every token of the answer is the argmax given those before it, the
    greedy answer is right.
    """
    right = 0
    for start in range(0, len(some), MEASURED_AT_ONCE):
        tokens, targets = encode(tokenizer, some[start : start + MEASURED_AT_ONCE])
        said = model(tokens).logits.argmax(dim=-1)  # (puzzles, longest)
        right += int(((said == targets) | (targets == IGNORED)).all(dim=1).sum())
    return right / len(some)

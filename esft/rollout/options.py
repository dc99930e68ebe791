"""Log-probabilities of a row's options, whose common beginnings are computed once."""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from esft.rollout.batches import Batches
from esft.rollout.logprobs import LOGITS, Continuation, in_groups, logits_at, members_of

_ADDED = ("sdpa", "eager")
"""Attention that adds a mask, in whatever form, to its scores."""

ATTENTION = 2
"""How many times the pairs of tokens that options have one by one their tree may have: what it
saves in tokens is more, and memory stays within bounds."""


@dataclass(frozen=True)
class TokenTree:
    """Tokens of options, those with the same tokens up to them once: one sequence for a model.

    A token stands behind its parent, and an option's tokens are a path from the root.
    """

    options: tuple[Continuation, ...]
    tokens: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    """Of each option: the places of its tokens in `tokens`."""

    @property
    def member(self) -> int | None:
        """See `Continuation`; options of one row have one."""
        return self.options[0].member

    @property
    def branches(self) -> bool:
        """Whether a token must not see all that stand before it."""
        return len(self.tokens) > max(map(len, self.paths))

    @property
    def targets(self) -> tuple[tuple[int, int], ...]:
        """The place that predicts, and the token, for each target of each option."""
        return tuple(
            pair
            for option, path in zip(self.options, self.paths, strict=True)
            for pair in zip(path[-len(option.targets) :], option.targets, strict=True)
        )


def token_tree(options: Sequence[Continuation]) -> TokenTree:
    """Return the tree of one or more options."""
    places: dict[tuple[int, int], int] = {}  # parent's place and token: place
    paths = []
    for option in options:
        place, path = -1, []
        for token in option.tokens:
            place = places.setdefault((place, token), len(places))
            path.append(place)
        paths.append(tuple(path))
    return TokenTree(tuple(options), tuple(token for _, token in places), tuple(paths))


def option_logprobs(
    model,
    rows: Sequence[Sequence[Continuation]],
    batches: Batches,
    span: float,
    logits: int = LOGITS,
) -> list[list[float]]:
    """Return log p(continuation | context) of each option of each row, worked out in float32.

    A row goes through the model as one tree where that is less work, else option by option.

    Args:
        span: as `tree_span` says of the model.
        logits: how many are held at once, unless one row alone has more.
    """
    trees = [trees_of(options, span) for options in rows]
    most = logits // model.get_output_embeddings().weight.shape[0]

    def work(batch: Sequence[TokenTree]) -> list[list[float]]:
        return [found for group in in_groups(batch, most) for found in _logprobs(model, group)]

    found: dict[bool, list[list[float]]] = {}
    for branch in (True, False):  # apart, as only trees that branch need a mask
        some = [tree for row in trees for tree in row if tree.branches is branch]
        found[branch] = batches.run(some, work, length=lambda tree: len(tree.tokens))
    left = {branch: iter(logprobs) for branch, logprobs in found.items()}
    return [[one for tree in row for one in next(left[tree.branches])] for row in trees]


def trees_of(options: Sequence[Continuation], span: float) -> list[TokenTree]:
    """Return one tree of all options, or one of each where they share too little for it."""
    tree = token_tree(options)
    lengths = [len(path) for path in tree.paths]
    small = len(tree.tokens) ** 2 <= ATTENTION * sum(length**2 for length in lengths)
    if not tree.branches or (max(lengths) <= span and small):
        return [tree]
    return [token_tree([option]) for option in options]


@torch.inference_mode()
def _logprobs(model, group: list[TokenTree]) -> list[list[float]]:
    width = max(len(tree.tokens) for tree in group)
    padded = [tree.tokens + (0,) * (width - len(tree.tokens)) for tree in group]
    numbers: dict[tuple[int, int], int] = {}  # row and place: where its logits are
    pairs = [
        (numbers.setdefault((row, place), len(numbers)), token)
        for row, tree in enumerate(group)
        for place, token in tree.targets
    ]
    attention = _attention(model, group, width)
    logits = logits_at(model, padded, list(numbers), members_of(group), **attention)
    index, targets = torch.tensor(pairs, device=model.device).unbind(1)  # (targets of all,) each
    logprobs = torch.log_softmax(logits, dim=-1)[index, targets]
    options = [option for tree in group for option in tree.options]
    parts = logprobs.split([len(option.targets) for option in options])
    sums = iter(torch.stack([part.sum() for part in parts]).tolist())
    return [[next(sums) for _ in tree.options] for tree in group]


def _attention(model, group: list[TokenTree], width: int) -> dict[str, Tensor]:
    """Return the positions of the tokens, and the mask that lets each see its path alone.

    Without a branch that is plain causal attention, which needs neither.
    """
    if not any(tree.branches for tree in group):
        return {}
    sees = torch.eye(width, dtype=torch.bool).repeat(len(group), 1, 1)  # padding sees itself
    positions = torch.zeros(len(group), width, dtype=torch.long)
    for row, tree in enumerate(group):
        for path in map(torch.tensor, tree.paths):
            positions[row, path] = torch.arange(len(path))
            sees[row, path[:, None], path] = torch.ones(len(path), len(path)).tril().bool()
    hidden = torch.zeros(sees.shape, dtype=model.dtype)
    hidden.masked_fill_(~sees, torch.finfo(model.dtype).min)
    return {
        "attention_mask": hidden[:, None].to(model.device),  # (group, 1, width, width)
        "position_ids": positions.to(model.device),  # (group, width)
    }


def tree_span(model) -> float:
    """Return the most tokens of a path in a tree that branches; 0 where the model takes none.

    A tree asks for attention by a mask of its own at positions of its own, and for nothing else
    that goes from token to token. Within a sliding window, that is plain attention.
    """
    accepted = inspect.signature(model.forward).parameters.keys()
    if not (
        {"attention_mask", "position_ids"} <= accepted
        and {"cache", "past_key_values"} & accepted
        and model.is_backend_compatible()
        and model.config._attn_implementation in _ADDED
    ):
        return 0
    layers = DynamicCache(config=model.config).layers
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    if any(type(layer) not in plain for layer in layers):
        return 0
    if model.device.type != "meta" and not _same_by_tree(model):  # without weights: taken as said
        return 0
    return min((layer.sliding_window for layer in layers if layer.is_sliding), default=math.inf)


def _same_by_tree(model) -> bool:
    """Return whether an option has the same logits in a tree, behind another, as alone.

    Rounding takes less than half of the digits; a mask or position that is not obeyed, more.
    """
    size = model.get_output_embeddings().weight.shape[0]
    several = [tuple(token % size for token in range(start, start + 8)) for start in (0, 8, 16)]
    pair = [Continuation(several[0] + rest, (0,)) for rest in several[1:]]
    alone, among = (_last_logits(model, token_tree(options)) for options in (pair[1:], pair))
    return bool((among - alone).std() <= torch.finfo(model.dtype).eps ** 0.5 * alone.std())


@torch.inference_mode()
def _last_logits(model, tree: TokenTree) -> Tensor:
    """Return the logits that the last option's last token predicts with: (vocabulary,)."""
    inputs = _attention(model, [tree], len(tree.tokens))
    return logits_at(model, [tree.tokens], [(0, tree.paths[-1][-1])], None, **inputs)[0]

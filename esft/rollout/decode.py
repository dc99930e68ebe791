"""One batch of prompts, decoded token by token: no padding is read, rows leave as they are done."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from esft.rollout.kvcache import Beginning, GrowingCache

FORWARD = 64
"""Tokens that could be read in the time that a forward takes beside its tokens, at least."""

_LAST = 3
"""Tokens that a trial of memory makes."""

Bend = Callable[[list[int], int, Tensor], Tensor]
"""Given which prompt each row is, how many tokens the rows have got, and the logits of the next,
float32 (rows, vocabulary): returns what the argmax is taken of."""


@torch.inference_mode()
def shared_beginning(
    model, prompts: Sequence[tuple[int, ...]], members: Sequence[int] | None = None
) -> Beginning | None:
    """Return what the model, as it is now, makes of the tokens that all prompts begin with: each
    of the members that read them, where there are some.

    None where reading it once would save no time, or the model's cache cannot be continued by
    several rows. At least one token is left to each prompt.
    """
    alike = takewhile(lambda column: len({*column}) == 1, zip(*prompts, strict=False))
    shared = tuple(column[0] for column in alike)[: min(map(len, prompts)) - 1]
    readers = None if members is None else list(range(max(members) + 1))
    copies = 1 if readers is None else len(readers)
    if len(shared) * (len(prompts) - copies) <= FORWARD:
        return None
    reader = _Reader(model, [shared] * copies, None, readers)
    if not reader.is_plain:
        return None
    reader.read_prompts()
    layers = tuple((layer.keys, layer.values) for layer in reader.cache.layers)
    return Beginning(len(shared), layers)


@torch.inference_mode()
def decode(
    model,
    prompts: Sequence[tuple[int, ...]],
    cap: int,
    stops: Sequence[int],
    bend: Bend | None = None,
    beginning: Beginning | None = None,
    skipping: bool = False,
    members: Sequence[int] | None = None,
) -> list[tuple[tuple[int, ...], bool]]:
    """Return the new tokens of each prompt, and whether all logits they came from were finite.

    Args:
        prompts: as tokens, at least one each; best in order of length.
        cap: tokens after which an answer ends that met none of `stops`, at least 1.
        bend: changes the logits before the argmax; None takes them as they are.
        beginning: of all prompts, of this model as it is now.
        skipping: make nothing but the last tokens that the cap allows, behind a cache as large as
            the others would leave it, where the model's cache can be filled so: a trial of memory.
        members: of each prompt, see `greedy_answers`.
    """
    reader = _Reader(model, prompts, beginning, members)
    made: list[list[int]] = [[] for _ in prompts]
    finite = [True] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt is in which row of the reader
    going = rows  # rows of the reader that are not done
    logits = reader.read_prompts()  # (rows, vocabulary), float32
    first = max(0, cap - _LAST) if skipping and reader.is_plain else 0
    reader.skip(first)
    for count in range(first, cap):
        is_nan = logits.amax(dim=-1).isnan()
        if bend is not None:
            logits = bend(rows, count, logits)
        tokens = logits.argmax(dim=-1)
        # The one wait for the device in a step.
        for_each = list(zip(*torch.stack([tokens, is_nan.long()]).tolist(), strict=True))
        # A row that is done and cannot leave says what nobody reads: a NaN there is none.
        for row in going:
            token, nan = for_each[row]
            made[rows[row]].append(token)
            finite[rows[row]] &= not nan
        going = [row for row in going if for_each[row][0] not in stops]
        if not going or count == cap - 1:
            break
        if len(going) < len(rows) and reader.rows_can_leave:
            order = _closed_up(going)
            reader.keep(order)
            rows, tokens = [rows[row] for row in order], tokens[order]
            going = list(range(len(rows)))
        logits = reader.read(tokens)
    return [(tuple(tokens), whole) for tokens, whole in zip(made, finite, strict=True)]


def _closed_up(going: list[int]) -> list[int]:
    """Return the rows that go on, so that as few as can be change their place."""
    last = iter(going[::-1])
    staying = set(going)
    return [row if row in staying else next(last) for row in range(len(going))]


class _Reader:
    """Gives the model the tokens of a batch and returns the logits of what comes next.

    Rows are aligned at their last token, so that the last column of each is the one that predicts;
    what stands in the gap before a shorter one is masked.
    """

    def __init__(
        self,
        model,
        prompts: Sequence[tuple[int, ...]],
        beginning: Beginning | None,
        members: Sequence[int] | None,
    ) -> None:
        self._model, self._beginning = model, beginning
        self._members = None if members is None else list(members)  # of each row
        self._accepted = inspect.signature(model.forward).parameters
        # The cache is called past_key_values in early releases of transformers 5. The few models
        # that take none read all their tokens again for each new one.
        names = [name for name in ("cache", "past_key_values") if name in self._accepted]
        self._name = names[0] if names else None
        self.cache: Cache | None = DynamicCache(config=model.config) if names else None
        layers = self.cache.layers if names else []
        self.is_plain = bool(names) and all(type(layer) is DynamicLayer for layer in layers)
        """Whether each layer keeps all tokens: rows may be read apart and put together."""
        plain = (DynamicLayer, DynamicSlidingWindowLayer)
        self.rows_can_leave = all(type(layer) in plain for layer in layers)
        """Whether the cache, if any, holds keys and values alone.

        A state of another kind (Mamba, linear attention) would stay for rows that are gone.
        """
        self._is_state_alone = bool(names) and not any(
            isinstance(layer, DynamicLayer) for layer in layers
        )
        width = max(map(len, prompts))
        self._gaps = [width - len(prompt) for prompt in prompts]
        padded = [(0,) * (width - len(prompt)) + prompt for prompt in prompts]
        self._tokens = torch.tensor(padded, device=model.device)  # (rows, tokens so far)

    def read_prompts(self) -> Tensor:
        """Return the logits of the first new token of each row, float32 (rows, vocabulary)."""
        if not self.is_plain:
            return self._forward(self._tokens, self._gaps, self._members, self.cache, 0)
        lengths = [self._tokens.shape[1] - gap for gap in self._gaps]
        logits, caches = [], []
        for group in groups(lengths):
            width = max(lengths[group])
            gaps = [width - length for length in lengths[group]]
            members = None if self._members is None else self._members[group]
            caches.append(self._begun(gaps, members))
            given = self._tokens[group, -width:], gaps, members
            logits.append(self._forward(*given, caches[-1], caches[-1].get_seq_length()))
        self.cache = GrowingCache(caches)
        return torch.cat(logits)

    def read(self, tokens: Tensor) -> Tensor:
        """Append a token to each row; return the logits of the next."""
        known = 0 if self.cache is None else self._tokens.shape[1]
        self._tokens = torch.cat([self._tokens, tokens[:, None]], dim=1)
        return self._forward(self._tokens, self._gaps, self._members, self.cache, known)

    def skip(self, count: int) -> None:
        """Take so many tokens as read, of whatever kind."""
        if count:
            self._tokens = torch.nn.functional.pad(self._tokens, (0, count))
            self.cache.skip(count)

    def keep(self, order: list[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._tokens, self._gaps = self._tokens[order], [self._gaps[row] for row in order]
        if self._members is not None:
            self._members = [self._members[row] for row in order]
        if isinstance(self.cache, GrowingCache):
            unused = min(self._gaps)  # columns that belonged to rows that are gone
            self.cache.keep(order, unused)
            self._tokens = self._tokens[:, unused:]
            self._gaps = [gap - unused for gap in self._gaps]
        elif self.cache is not None:
            self.cache.batch_select_indices(torch.tensor(order, device=self._tokens.device))

    def _begun(self, gaps: list[int], members: list[int] | None) -> DynamicCache:
        if self._beginning is None:
            return DynamicCache(config=self._model.config)
        read = [0] * len(gaps) if members is None else members
        return self._beginning.cache(*torch.tensor([gaps, read], device=self._tokens.device))

    def _forward(
        self,
        tokens: Tensor,
        gaps: list[int],
        members: list[int] | None,
        cache: Cache | None,
        known: int,
    ) -> Tensor:
        """Read the tokens after the first `known`, which the cache holds."""
        before = torch.tensor(gaps, device=tokens.device)[:, None]
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        # Without a gap a mask would only keep attention off its fast path; a state alone (Mamba)
        # has no key to mask once the gap is behind it.
        is_masked = any(gaps) and not (known and self._is_state_alone)
        inputs = {
            "input_ids": tokens[:, known:],
            "attention_mask": (columns >= before).long() if is_masked else None,
            "position_ids": (columns - before).clamp_(min=0)[:, known:],
            "logits_to_keep": 1,
            "use_cache": cache is not None,
        }
        taken = {name: value for name, value in inputs.items() if name in self._accepted}
        if cache is not None:
            taken[self._name] = cache
        if members is not None:
            taken["members"] = members
        return self._model(**taken).logits[:, -1].float()


def groups(lengths: Sequence[int]) -> Iterator[slice]:
    """Cut rows into groups that are read together, so that all take the least time.

    Each row of a group costs as much as the longest, and each group a forward beside its tokens.
    Rows of one length that lie side by side stay together.
    """
    changes = (i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1])
    cuts = [0, *changes, len(lengths)]
    # The least cost of all rows from a cut on, and the cut where the first group of them ends.
    best = [(0, 0)] * len(cuts)
    for first in range(len(cuts) - 2, -1, -1):
        longest, choices = 0, []
        for last in range(first + 1, len(cuts)):
            longest = max(longest, lengths[cuts[last] - 1])
            cost = longest * (cuts[last] - cuts[first]) + FORWARD
            choices.append((cost + best[last][0], last))
        best[first] = min(choices)
    first = 0
    while first < len(cuts) - 1:
        last = best[first][1]
        yield slice(cuts[first], cuts[last])
        first = last

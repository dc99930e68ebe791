"""Keys and values of a batch that is decoded: what all prompts share once, each token in place."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Tokens that a buffer has room for when it is made: the cache is copied once in so many."""

KeysValues = tuple[Tensor, Tensor]
"""Of one layer, (rows, heads, tokens, size) each; keys and values may have other sizes."""


@dataclass(frozen=True)
class Beginning:
    """Tokens that all prompts begin with, and what each layer keeps of them: a row a member."""

    length: int
    layers: tuple[KeysValues, ...]

    def cache(self, gaps: Tensor, members: Tensor) -> DynamicCache:
        """Return the first `length` columns of rows of which each begins after its gap.

        So of a row with a gap there are only the beginning's first tokens; what stands in the gap
        is finite and to be masked. `gaps` and `members` are (rows,).
        """
        columns = torch.arange(self.length, device=gaps.device)
        tokens = (columns - gaps[:, None]).clamp_(min=0)  # (rows, length)
        cache = DynamicCache()
        for index, layer in enumerate(self.layers):
            # (rows, length, heads, size) -> (rows, heads, length, size)
            read = (kept[members[:, None], :, tokens].transpose(1, 2) for kept in layer)
            cache.update(*read, index)
        return cache


class GrowingCache(Cache):
    """Layers that are written in place, and from which rows and columns can go."""

    def __init__(self, caches: Sequence[DynamicCache]) -> None:
        """Begin with the rows of all caches, in their order, that end in one column.

        What is left of shorter rows is zero and to be masked. The caches are emptied on the way,
        so that no more than one layer is there twice.
        """
        layers = []
        for parts in zip(*(cache.layers for cache in caches), strict=True):
            layers.append(GrowingLayer([(part.keys, part.values) for part in parts]))
            for part in parts:
                part.keys = part.values = None
        super().__init__(layers=layers)

    def skip(self, count: int) -> None:
        """Append so many tokens of zeros to all rows."""
        for layer in self.layers:
            held = layer.keys, layer.values
            zeros = [
                kept.new_zeros(1).expand(*kept.shape[:2], count, kept.shape[3]) for kept in held
            ]
            layer.update(*zeros)

    def keep(self, order: Sequence[int], unused: int) -> None:
        """Go on with these rows, in this order, and without the first columns, `unused` of them.

        Only rows that change their place are copied.
        """
        moves = [(place, row) for place, row in enumerate(order) if place != row]
        places, rows = torch.tensor(moves, device=self.layers[0].device).view(-1, 2).long().T
        for layer in self.layers:
            layer.keep(places, rows, len(order), unused)


class GrowingLayer(DynamicLayer):
    """Keys and values of one layer in buffers with room, where new tokens are written in place.

    transformers' own layer copies all that it holds for every token. `keys` and `values` are
    views of what is in use.
    """

    def __init__(self, parts: Sequence[KeysValues]) -> None:
        """Begin with the rows of all parts, aligned at their last token."""
        super().__init__()
        self._rows = sum(len(keys) for keys, _ in parts)
        self._start, self._stop = 0, max(keys.shape[-2] for keys, _ in parts)
        self._buffers = [self._aligned(kept) for kept in zip(*parts, strict=True)]
        self.device, self.is_initialized = self._buffers[0].device, True
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> KeysValues:
        """Append tokens of all rows; return all keys and values of these rows."""
        stop = self._stop + key_states.shape[-2]
        if stop > self._buffers[0].shape[-2]:
            stop -= self._start
            self._buffers = [_copied(kept, stop + ROOM) for kept in (self.keys, self.values)]
            self._start, self._stop = 0, self._stop - self._start
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[: self._rows, :, self._stop : stop] = states
        self._stop = stop
        self._show()
        return self.keys, self.values

    def keep(self, places: Tensor, rows: Tensor, count: int, unused: int) -> None:
        """Write these rows to these places; go on with `count` rows from column `unused` on."""
        for kept in (self.keys, self.values):
            kept[places] = kept[rows]
        self._rows, self._start = count, self._start + unused
        self._show()

    def _aligned(self, parts: Sequence[Tensor]) -> Tensor:
        heads, size = parts[0].shape[1], parts[0].shape[3]
        buffer = parts[0].new_empty(self._rows, heads, self._stop + ROOM, size)
        for rows, part in zip(buffer.split([len(part) for part in parts]), parts, strict=True):
            gap = self._stop - part.shape[2]
            # What is masked has weight 0, and 0 times what happens to lie there may be NaN.
            rows[:, :, :gap] = 0
            rows[:, :, gap : self._stop] = part
        return buffer

    def _show(self) -> None:
        used = (slice(self._rows), slice(None), slice(self._start, self._stop))
        self.keys, self.values = (buffer[used] for buffer in self._buffers)


def _copied(kept: Tensor, tokens: int) -> Tensor:
    """Return a buffer for so many tokens that begins with what is kept."""
    rows, heads, used, size = kept.shape
    buffer = kept.new_empty(rows, heads, tokens, size)
    buffer[:, :, :used] = kept
    return buffer

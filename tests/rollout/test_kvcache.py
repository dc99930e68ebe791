"""A cache that is written in place holds what one that is copied for each token would hold."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from esft.rollout.decode import FORWARD, groups
from esft.rollout.kvcache import ROOM, Beginning, GrowingCache

HEADS, KEY, VALUE = 2, 4, 3


def states(rows, tokens, generator):
    return tuple(
        torch.randn(rows, HEADS, tokens, size, generator=generator) for size in (KEY, VALUE)
    )


def filled(layers):
    cache = DynamicCache()
    for index, layer in enumerate(layers):
        cache.update(*layer, index)
    return cache


def held(cache):
    return [(layer.keys, layer.values) for layer in cache.layers]


def same(first, second):
    pairs = zip(first, second, strict=True)
    return all(one.equal(other) for a, b in pairs for one, other in zip(a, b, strict=True))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**31))
def test_it_holds_what_a_copied_cache_holds_while_tokens_come_and_rows_go(data, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1))
    width, rows = max(tokens for _, tokens in parts), sum(count for count, _ in parts)
    given_parts = [[states(*part, generator) for _ in range(2)] for part in parts]
    growing = GrowingCache([filled(layers) for layers in given_parts])
    plain = filled(
        tuple(
            torch.cat(
                [torch.nn.functional.pad(kept, (0, 0, width - kept.shape[2], 0)) for kept in kind]
            )
            for kind in zip(*layer, strict=True)
        )
        for layer in zip(*given_parts, strict=True)
    )
    assert same(held(growing), held(plain))
    for _ in range(data.draw(st.integers(1, 6))):
        for _ in range(data.draw(st.sampled_from([1, 3, ROOM + 1]))):
            for index in range(2):
                new = states(rows, 1, generator)
                growing.update(*new, index)
                plain.update(*new, index)
        order = data.draw(st.permutations(range(rows)))[: data.draw(st.integers(1, rows))]
        unused = data.draw(st.integers(0, plain.get_seq_length() - 1))
        growing.keep(order, unused)
        plain.batch_select_indices(torch.tensor(order))
        for layer in plain.layers:
            layer.keys, layer.values = layer.keys[:, :, unused:], layer.values[:, :, unused:]
        rows = len(order)

        assert same(held(growing), held(plain))
        assert growing.get_seq_length() == plain.get_seq_length()


def test_a_token_is_written_in_place_and_the_buffer_copied_once_in_many():
    generator = torch.Generator().manual_seed(0)
    cache = GrowingCache([filled([states(3, 5, generator)])])
    places = set()

    for _ in range(4 * ROOM):
        keys, _ = cache.update(*states(3, 1, generator), 0)
        places.add(keys.data_ptr())

    assert len(places) <= 5


@pytest.mark.parametrize("count", [1, ROOM, 3 * ROOM + 1])
def test_tokens_that_are_skipped_leave_zeros_in_every_layer(count):
    generator = torch.Generator().manual_seed(0)
    cache = GrowingCache([filled([states(3, 5, generator), states(3, 5, generator)])])
    before = [tuple(kept.clone() for kept in layer) for layer in held(cache)]

    cache.skip(count)

    zeros = torch.nn.functional.pad
    assert cache.get_seq_length() == 5 + count
    assert same(held(cache), [tuple(zeros(x, (0, 0, 0, count)) for x in one) for one in before])


def test_joining_empties_the_caches_it_is_made_of():
    cache = filled([states(3, 5, torch.Generator())])

    GrowingCache([cache])

    assert held(cache) == [(None, None)]


def test_a_beginning_lies_behind_the_gap_of_each_row():
    keys, values = states(2, 5, torch.Generator().manual_seed(0))
    gaps, members = torch.tensor([0, 2, 9]), torch.tensor([1, 0, 1])

    (kept,) = held(Beginning(5, ((keys, values),)).cache(gaps, members))

    for row, (gap, member) in enumerate([(0, 1), (2, 0), (5, 1)]):
        for one, whole in zip(kept, (keys, values), strict=True):
            assert one[row, :, gap:].equal(whole[member, :, : 5 - gap])
            assert one.isfinite().all()


def cost(lengths, cuts):
    bounds = [0, *cuts, len(lengths)]
    parts = [lengths[a:b] for a, b in pairwise(bounds)]
    return sum(len(part) * max(part) + FORWARD for part in parts)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=8))
def test_no_other_way_to_group_rows_costs_less(lengths):
    found = list(groups(lengths))

    assert [row for group in found for row in range(len(lengths))[group]] == [*range(len(lengths))]
    everything = range(1, len(lengths))
    all_cuts = [[c for c in everything if bits >> c & 1] for bits in range(0, 2 ** len(lengths), 2)]
    assert cost(lengths, [g.start for g in found[1:]]) == min(cost(lengths, c) for c in all_cuts)


@pytest.mark.parametrize("count", [1, 64])
def test_rows_of_one_length_are_one_group(count):
    assert list(groups([100] * count)) == [slice(0, count)]

import math

import pytest
import torch

from esft.errors import ModelError
from esft.models.calling import out_of_memory
from esft.rollout.batches import Batches, largest_batch


def squares_up_to(limit, error):
    def work(batch):
        if len(batch) > limit:
            raise error
        return [item * item for item in batch]

    return work


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("size", [None, 1, 5, 16])
def test_results_come_back_in_order_whatever_fits(limit, size):
    items = list(range(23))
    work = squares_up_to(limit, torch.OutOfMemoryError("no room"))

    results = Batches(size).run(items, work, length=lambda item: item % 5)

    assert results == [item * item for item in items]


def test_a_size_that_fits_is_told_and_kept():
    told = []
    batches = Batches(16)
    batches.on_split = told.append

    for _ in range(2):
        batches.run(list(range(40)), squares_up_to(5, MemoryError()), length=int)

    assert told == [8, 4]
    assert batches.size == 4


def test_one_item_that_does_not_fit_is_refused_with_a_fix():
    with pytest.raises(ModelError, match="batch of 1") as caught:
        Batches(4).run([1, 2, 3], squares_up_to(0, MemoryError()), length=int)

    assert "smaller model" in caught.value.hint


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"):
        Batches(4).run([1, 2], squares_up_to(0, RuntimeError("shapes do not match")), int)


def test_the_error_of_the_cpu_allocator_counts_as_out_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 62, dtype=torch.uint8)

    assert out_of_memory(caught.value)


CPU, SEQUENCE = torch.device("cpu"), 24 * 2**20


def found(sequences, most=64, fits=math.inf):
    """The size found where so many sequences are all that the CPU may take, and the sizes tried."""
    tried = []

    def fill(batches):
        tried.append(batches.size)

        def work(batch):
            if len(batch) > fits:
                raise MemoryError
            torch.ones(len(batch) * SEQUENCE, dtype=torch.uint8)
            return batch

        batches.run(list(range(batches.size)), work, length=int)

    # Half of what is free may be taken, and a trial measures a little more than the tensor.
    size = largest_batch(fill, CPU, most, free=lambda device: int(2 * (sequences + 0.5) * SEQUENCE))
    return size, tried


@pytest.mark.parametrize(
    ("sequences", "size", "tried"),
    [(1, 1, [2]), (2, 2, [2]), (5, 4, [2, 4]), (9, 8, [2, 8]), (20, 16, [2, 8, 16])],
)
def test_a_batch_grows_to_the_largest_power_of_2_that_is_predicted_to_fit(sequences, size, tried):
    assert found(sequences) == (size, tried)


@pytest.mark.parametrize("most", [1, 2, 6, 64])
def test_what_fits_several_times_over_is_taken_untried(most):
    assert found(5 * most, most) == (most, [min(2, most)])


def test_memory_that_runs_out_in_a_trial_ends_the_growth():
    assert found(20, fits=5) == (4, [2, 8])

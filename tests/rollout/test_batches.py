import pytest
import torch

from esft.errors import ModelError
from esft.models.calling import out_of_memory
from esft.rollout.batches import Batches


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

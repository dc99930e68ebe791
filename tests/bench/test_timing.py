"""What takes turns is timed round by round, and compared within a round."""

import torch

from esft.bench.timing import Spread, in_turns, machine, ratio, spread

CPU = torch.device("cpu")


def test_in_every_round_each_way_does_its_operations_once_in_their_order():
    done = []
    ways = {
        way: {operation: lambda w=way, o=operation: done.append((w, o)) for operation in "xy"}
        for way in "abc"
    }

    seconds = in_turns(ways, 6, CPU)

    rounds = [done[at : at + 6] for at in range(0, len(done), 6)]
    orders = [[way for way, operation in one if operation == "x"] for one in rounds]
    for one in rounds:
        assert [operation for _, operation in one] == list("xyxyxy")
        assert sorted(one) == [(way, operation) for way in "abc" for operation in "xy"]
    assert len({tuple(order) for order in orders}) > 1
    assert {len(s) for of in seconds.values() for s in of.values()} == {6}
    assert min(s for of in seconds.values() for taken in of.values() for s in taken) > 0


def test_ratios_are_those_of_a_round_not_of_medians():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Spread(median=2.0, low=1.0, high=3.0)
    assert spread([5.0, 1.0, 2.0, 3.0]) == Spread(median=2.5, low=1.0, high=5.0)


def test_a_machine_says_what_it_has():
    here = machine()

    assert here.processor
    assert here.cores >= 1
    assert here.threads == torch.get_num_threads()
    assert here.versions["torch"] == torch.__version__

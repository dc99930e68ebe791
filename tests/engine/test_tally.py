"""What a step finds out on its way: the largest of each parameter, the squares of all."""

import pytest
import torch

from esft.engine.tally import Tally


def test_peaks_are_those_of_all_pieces_of_a_parameter():
    tally = Tally()

    for name, values in [("a", [1.0, -5.0]), ("a", [2.0]), ("b", [0.0]), ("c", [-1.0, 0.5])]:
        tally.note_peak(name, torch.tensor(values))

    assert tally.peaks() == {"a": 5.0, "b": 0.0, "c": 1.0}


def test_squares_add_up_over_all_pieces_in_float64():
    tally = Tally()
    pieces = torch.randn(100, 1000, generator=torch.Generator().manual_seed(0))

    for piece in pieces:
        tally.note_norm(piece)

    assert tally.squares() == pytest.approx(float(pieces.double().square().sum()), rel=1e-12)


def test_nothing_noted_is_nothing():
    assert Tally().peaks() == {}
    assert Tally().squares() == 0

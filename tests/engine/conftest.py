"""Fixtures of the engine's tests."""

import pytest
import some_weights


@pytest.fixture(params=[None, 2], ids=["full noise", "noise of rank 2"])
def rank(request, monkeypatch):
    """Give `some_weights` full noise, then noise of low rank; see `with_both_noises`."""
    monkeypatch.setattr(some_weights, "RANK", request.param)

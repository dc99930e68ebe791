"""What tests of evaluations share."""

import pytest

from esft.rollout.rollout import Rollout


@pytest.fixture
def counted(monkeypatch):
    """The numbers of rows that were scored, call by call."""
    calls, evaluated = [], Rollout.evaluate

    def counting(self, encoded):
        calls.append(len(encoded))
        return evaluated(self, encoded)

    monkeypatch.setattr(Rollout, "evaluate", counting)
    return calls

"""The picture of plasticity."""

import math
from dataclasses import replace

import pytest

from esft.evals.learners import Distance
from esft.evals.proxy import ProxyRecord
from esft.evals.results import KlEstimate, KlPair
from esft.report.draw import as_svg
from esft.report.plasticity import plasticity_charts, plasticity_png
from esft.stats.intervals import Interval
from esft.stats.plasticity import Estimate


def a_record(drift, kl, improving):
    told = KlEstimate(kl=kl, se=0.01, tokens=9, prompts=3, far=0.0)
    pair = KlPair(step=3, base_to_tuned=told, tuned_to_base=told)
    estimate = Estimate(mean=improving, interval=Interval(improving - 0.1, improving + 0.1, 0.95))
    return ProxyRecord(
        run=f"runs/far-{drift}",
        task="add-two-digits",
        tuned_on="copy-letters",
        distance=Distance(step=3, drift=drift, kl=pair),
        sigma=0.01,
        rows=4,
        reward=None,
        improving=estimate,
        change=estimate,
        best=None,
        seeds=(),
    )


RECORDS = [a_record(20.5, 0.1, -0.1), a_record(23.0, 0.4, 0.05)]


def test_a_point_a_run_by_drift_and_by_kl_with_its_interval():
    by_drift, by_kl = plasticity_charts(RECORDS)

    assert [line.steps for line in by_drift.lines] == [(20.5,), (23.0,)]
    assert [line.steps for line in by_kl.lines] == [(0.1,), (0.4,)]
    for chart in (by_drift, by_kl):
        assert [line.values for line in chart.lines] == [(-0.1,), (0.05,)]
        assert [line.errors[0] for line in chart.lines] == pytest.approx([0.1, 0.1])
        assert "proxy" in chart.title
    assert ">0.24<" in as_svg(by_kl)  # a tick of the axis
    assert plasticity_png(RECORDS).startswith(b"\x89PNG")


@pytest.mark.parametrize("kl", [None, math.nan])
def test_without_the_kl_of_one_there_is_the_drift_alone(kl):
    far = RECORDS[0].distance
    unknown = None
    if kl is not None:
        told = replace(far.kl.base_to_tuned, kl=kl)
        unknown = replace(far.kl, base_to_tuned=told)
    records = [replace(RECORDS[0], distance=replace(far, kl=unknown)), RECORDS[1]]

    assert [chart.across for chart in plasticity_charts(records)] == ["||D|| of the run"]

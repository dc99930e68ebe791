"""The picture of `esft plasticity`: how far runs went from their base, against what they can still
learn."""

from collections.abc import Sequence
from pathlib import Path

from esft.evals.plasticity import PlasticityRecord
from esft.evals.proxy import ProxyRecord
from esft.report.chart import Chart, Key, Line
from esft.report.draw import as_png
from esft.rollout.typed import known
from esft.stats.plasticity import Estimate

Record = PlasticityRecord | ProxyRecord


def plasticity_png(records: Sequence[Record]) -> bytes:
    """Return a picture of `plasticity_charts`, runs by their names."""
    keys = [Key(text=Path(record.run).name, run=run) for run, record in enumerate(records)]
    return as_png(plasticity_charts(records), [*keys, Key(text="as the base model", style="level")])


def plasticity_charts(records: Sequence[Record]) -> list[Chart]:
    """Return charts of a point a run with its 95 % interval, by drift and, where it is known of
    all, by KL(p0||p): of gains and of where curves end, or of what a proxy tells.

    `records` are of one task and of one kind.
    """
    across = {"||D|| of the run": [record.distance.drift for record in records]}
    pairs = [record.distance.kl for record in records]
    kls = [None if pair is None else known(pair.base_to_tuned.kl) for pair in pairs]
    if None not in kls:
        across["KL(p0||p) of the run, nats a token"] = kls
    return [
        Chart(
            title=f"{title} {records[0].task}",
            label=f"{label}, tuned - base",
            across=name,
            level=0,
            lines=tuple(_spot(*spot) for spot in zip(range(len(records)), far, found, strict=True)),
        )
        for title, (label, found) in _found(records).items()
        for name, far in across.items()
    ]


def _found(records: Sequence[Record]) -> dict[str, tuple[str, list[Estimate]]]:
    """Return, by what a title says, the name of the measure and what it is of each run."""
    first = records[0]
    if isinstance(first, ProxyRecord):
        return {"proxy: improving on": ("members", [record.improving for record in records])}
    label = "share right" if first.by == "right" else "reward"
    pairs = [record.judged for record in records]
    return {
        "gain on": (label, [pair.gain for pair in pairs]),
        "end on": (label, [pair.differences[-1] for pair in pairs]),
    }


def _spot(run: int, far: float, found: Estimate) -> Line:
    half = (found.interval.high - found.interval.low) / 2
    return Line(run=run, steps=(far,), values=(found.mean,), errors=(half,), marked=True)

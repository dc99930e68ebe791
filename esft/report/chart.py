"""What a chart of a report is made of, as plain numbers that `draw` draws."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Values = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart, coloured by the number of its run; None is a gap."""

    run: int
    steps: tuple[float, ...]  # or another measure, such as a drift
    values: Values
    style: str = "solid"  # or "dashed" or "dotted"
    errors: Values | None = None  # half the height of the band around it
    marked: bool = False  # with its run's marker at every point
    thin: bool = False  # in the colour of text: seen on top of a line that it follows


@dataclass(frozen=True, kw_only=True)
class Box:
    """Values side by side: a dot each, over a box from the lower to the upper quartile."""

    label: str  # below it
    values: tuple[float, ...]  # finite ones
    note: str = ""  # above it, in short lines
    run: int = 0


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over the steps of a run; or a row a layer, with a dot a run; or boxes."""

    title: str
    label: str  # of the axis of the values
    lines: tuple[Line, ...] = ()
    boxes: tuple[Box, ...] = ()
    across: str = "step"  # label of the other axis
    limits: tuple[float, float] | None = None  # of that axis; None takes those of the lines
    level: float | None = None  # where a thin line lies across
    percent: bool = False  # values are shares, shown as such
    rows: tuple[str, ...] = ()  # layers: the steps of a line are positions among them

    def described(self, names: Sequence[str]) -> str:
        """Return what it shows in words, the ends of every line; `names` are those of the runs."""
        by = ", a row a layer" if self.rows else f" by {self.across}"
        words = [f"{self.title}, {self.label}{by}."]
        for box in self.boxes:
            note = "".join(f", {line}" for line in box.note.splitlines())
            middle = f"median {statistics.median(box.values):.4g}, " if box.values else ""
            words.append(f"{box.label}: {middle}{len(box.values)} values{note}.")
        for line in self.lines:
            style = "" if line.style == "solid" else f" ({line.style})"
            labels = self.rows or [f"step {step}" for step in line.steps]
            points = zip(labels, line.values, strict=True)
            given = [f"{value:.4g} at {label}" for label, value in points if value is not None]
            ends = dict.fromkeys((given[0], given[-1]))
            words.append(f"{names[line.run]}{style}: {' to '.join(ends)}.")
        return " ".join(words)


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a legend."""

    text: str
    run: int | None = None  # whose colour it explains; None for what all runs share
    style: str = "solid"  # of a `Line`, or "band" or "level"


@dataclass(frozen=True, kw_only=True)
class Section:
    """Charts that stand together."""

    name: str
    charts: tuple[Chart, ...]
    keys: tuple[Key, ...]  # runs first, where there are several; then styles

"""The measures of task know, as `esft tune` and `esft eval` print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from esft.cli.show import wrapped

if TYPE_CHECKING:
    from esft.stats.knowing import Estimate, KnowingFigures


def knowing_lines(
    head: str,
    before: KnowingFigures | None,
    now: KnowingFigures | None,
    changes: Mapping[str, Estimate] | None,
) -> list[str]:
    """Return a line a measure, of the base model and now, with 95 % intervals of now and of the
    change; none where there are none. `before` is None where there is nothing to compare."""
    if now is None:
        return []
    lines = [f"  knowing, {head}, {now.n} rows; 95 % intervals, after by those of the change"]
    width = max(map(len, now.measures))
    for name, measure in now.measures.items():
        text = shown(measure)
        if before is not None and name in before.measures:
            was = before.measures[name].value
            text = f"{'no rows' if was is None else format(was, '.3f')} -> {text}"
        if changes is not None and (change := changes.get(name)) and change.low is not None:
            text += f" by {change.low:+.3f} to {change.high:+.3f}"
        lines.append(f"    {name:<{width}}  {text}")
    if now.chance.value is not None:
        lines.append(f"    {'shuffled':<{width}}  {shown(now.chance)}, d_prime by chance")
    for who, figures in (("base model: ", before), ("", now)):
        lines += [
            wrapped("    Warning: ", f"{who}{note}") for note in (figures.notes if figures else ())
        ]
    return lines


def shown(measure: Estimate) -> str:
    """Return a measure with its interval, or that there were no rows for it."""
    if measure.value is None:
        return "no rows"
    if measure.low is None or measure.high is None:
        return format(measure.value, ".3f")
    return f"{measure.value:.3f} ({measure.low:.3f} to {measure.high:.3f})"

"""How a table and its cells are written as HTML."""

from collections.abc import Iterable, Sequence
from html import escape

UNKNOWN = "–"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Return a table; cells and heads are HTML.

    Args:
        caption: plain text.
        heads: a cell a column.
        rows: likewise, the first of each being its head.
        kind: "cards" stacks a row's cells on a narrow screen, each under its head.
    """
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(_row(heads, cells) for cells in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def plain(value: float | None, form: str = ".3f") -> str:
    """Return a number, or a dash where it is not known."""
    return UNKNOWN if value is None else format(value, form).replace("-", "−")


def with_error(value: float | None, error: float | None, form: str = ".3f") -> str:
    """Return a number with its standard error, where that is known."""
    shown = plain(value, form)
    if value is None or error is None:
        return shown
    return f'<span class="whole">{shown} ± {plain(error, form)}</span>'


def _row(heads: Sequence[str], cells: Sequence[str]) -> str:
    first, *rest = cells
    shown = "".join(
        f'<td data-head="{escape(head)}"><div>{cell}</div></td>'
        for head, cell in zip(heads[1:], rest, strict=True)
    )
    return f'<tr><th scope="row">{first}</th>{shown}</tr>'

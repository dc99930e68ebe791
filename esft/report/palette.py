"""The colours of a report: one a run, told apart on light and dark and without red or green."""

from dataclasses import dataclass

STYLES = {"solid": "", "dashed": "5 3", "dotted": "1.5 2.5"}
"""Dashes of each style of line, in points."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Of the runs, so that colour is not all that tells them apart; as matplotlib names them."""

LIGHT_RUNS = ("#008deb", "#c17c15", "#581e67", "#ff3d8b", "#770d0d", "#2b00d6")
DARK_RUNS = ("#acd8f6", "#ae7013", "#a366ff", "#ffc8a3", "#3077a6", "#33ff00")


@dataclass(frozen=True, kw_only=True)
class Palette:
    """What a drawing is painted with."""

    ink: str
    muted: str
    grid: str
    paper: str
    runs: tuple[str, ...]

    def run(self, place: int) -> str:
        """Return the colour of a run."""
        return self.runs[place % len(self.runs)]


LIGHT = Palette(ink="#1b1f24", muted="#57606a", grid="#d8dde3", paper="#ffffff", runs=LIGHT_RUNS)
DARK = Palette(ink="#e8ebef", muted="#a2abb5", grid="#363c44", paper="#15181c", runs=DARK_RUNS)

TOKENS = Palette(
    ink="#100001",
    muted="#100002",
    grid="#100003",
    paper="#100004",
    runs=tuple(f"#10001{place}" for place in range(len(LIGHT_RUNS))),
)
"""Stands for the page's own colours in a drawing that `with_variables` puts them into."""


def marker(place: int) -> str:
    """Return the marker of a run."""
    return MARKERS[place % len(MARKERS)]


def variables(palette: Palette) -> str:
    """Return a palette as CSS variables."""
    named = {"ink": palette.ink, "muted": palette.muted, "grid": palette.grid}
    named |= {"paper": palette.paper}
    named |= {f"run-{place}": colour for place, colour in enumerate(palette.runs)}
    return " ".join(f"--{name}: {colour};" for name, colour in named.items())


def with_variables(svg: str) -> str:
    """Return a drawing made with TOKENS that takes the colours of the page it stands in."""
    named = {TOKENS.ink: "ink", TOKENS.muted: "muted", TOKENS.grid: "grid", TOKENS.paper: "paper"}
    named |= {colour: f"run-{place}" for place, colour in enumerate(TOKENS.runs)}
    for token, name in named.items():
        svg = svg.replace(token, f"var(--{name})")
    return svg

"""Ctrl-C and SIGTERM while a model is tuned."""

import signal
from types import FrameType

import click


class StopSignals:
    """The first signal asks to stop after the step in hand, the second stops at once.

    Until `arm` is called there is no step to finish, so the first stops at once as well.
    """

    def __init__(self) -> None:
        self._armed = False
        self._asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self) -> None:
        """From now on there is a step to finish."""
        self._armed = True

    def asked(self) -> bool:
        """Return whether the run is to end after the step in hand."""
        return self._asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked or not self._armed:
            raise KeyboardInterrupt
        self._asked = True
        click.echo(
            "Stopping after this step, then saving the model; once more stops at once.", err=True
        )

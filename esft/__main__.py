"""The command `esft`, also as `python -m esft`: Ctrl-C ends it with 130 from its first moment."""

import os
import signal


def run() -> None:
    """Run the command line; while it is imported, and behind it, Ctrl-C just ends the process."""
    before = signal.getsignal(signal.SIGINT)

    def leave() -> None:
        if before is signal.default_int_handler:  # not where whoever started it ignores Ctrl-C
            signal.signal(signal.SIGINT, lambda number, frame: os._exit(130))

    leave()
    from esft.cli import main

    try:
        signal.signal(signal.SIGINT, before)
        main(prog_name="esft")
    finally:
        leave()


if __name__ == "__main__":
    run()

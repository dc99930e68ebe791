"""Loading and saving without the noise of the libraries."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr


@contextmanager
def quiet(*, bars_too: bool = False, no_bars: bool = False) -> Iterator[None]:
    """Inside the block transformers logs errors only, and shows bars on a terminal only.

    Args:
        bars_too: also catch bars that no setting turns off, by keeping all of stderr back;
            not on a terminal, where they are welcome.
        no_bars: show none on a terminal either.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    no_hub_bars = are_progress_bars_disabled()
    shown = sys.stderr.isatty() and not no_bars
    logging.set_verbosity_error()
    if not shown:
        logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()) if bars_too and not shown else nullcontext():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars and not shown:
            logging.enable_progress_bar()  # and with it the hub's
            if no_hub_bars:
                disable_progress_bars()

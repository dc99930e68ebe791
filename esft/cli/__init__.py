"""The command line: each command parses, calls one function of the library and prints.

Knows nothing of tensors, files or formulas: what works here works from a Python prompt too.
"""

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from esft import __version__
from esft.cli.ask import ask
from esft.cli.bench import bench
from esft.cli.eval import evaluate
from esft.cli.export import export, replay
from esft.cli.machine import cache, doctor
from esft.cli.plan import plan
from esft.cli.plasticity import plasticity
from esft.cli.probe import probe
from esft.cli.recipes import recipes, settings
from esft.cli.runs import report, rm, runs, verify
from esft.cli.show import wrapped
from esft.cli.tasks import tasks
from esft.cli.tune import resume, tune
from esft.errors import EsftError, RankError, RunError
from esft.recipe.check import cut
from esft.tuning.ranks import place


class _Main(click.Group):
    """Prints what a user or the system can fix without a traceback; Ctrl-C is exit code 130."""

    def make_context(self, *args, **kwargs) -> click.Context:
        with _without_traceback():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> object:
        with _without_traceback(), _without_noise():
            _require_current_folder()
            return super().invoke(ctx)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        """Return the command that is meant; of the processes of a torchrun one works on those that
        do not share it."""
        name, command, rest = super().resolve_command(ctx, args)
        where = place()
        if where.world > 1 and name not in SHARED:
            if where.rank:
                ctx.exit()
            click.echo(
                f"One process is enough for esft {name}: the others of torchrun end.", err=True
            )
        return name, command, rest


@contextmanager
def _without_traceback() -> Iterator[None]:
    try:
        yield
    except click.UsageError as error:
        said = _folded("Error: ", error.format_message()).removeprefix("Error: ")
        error.format_message = lambda: said
        raise
    except EsftError as error:
        if not getattr(error, "quiet", False):  # another rank says it
            _tell(error)
        raise click.exceptions.Exit(error.exit_code) from error
    except KeyboardInterrupt as stopped:
        if not place().rank:
            click.echo("Stopped.", err=True)
        raise click.exceptions.Exit(130) from stopped
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever read the output went away; click knows
            raise
        _tell(_of_the_system(error))
        raise click.exceptions.Exit(EsftError.exit_code) from error


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep what other packages warn of and log from the screen; python -W shows the warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _tell(error: EsftError) -> None:
    rank = place().rank
    of_rank = f"rank {rank}: " if rank and not isinstance(error, RankError) else ""
    with suppress(OSError):
        click.echo(_folded("Error: ", f"{of_rank}{error}"), err=True)
        if error.hint is not None:
            click.echo(_folded("Hint: ", error.hint), err=True)


def _folded(label: str, text: str) -> str:
    """Return label and text, on a terminal no line wider than it: elsewhere programs read them."""
    if not sys.stderr.isatty():
        return label + text
    first, *others = text.split("\n")
    below = {"subsequent_indent": " " * len(label)}
    return "\n".join([wrapped(label, first), *(wrapped("", line, **below) for line in others)])


def _of_the_system(error: OSError) -> EsftError:
    """Return what the system refused, such as a path too long, or a page on a full disk."""
    text, where = error.strerror or str(error), error.filename
    if where is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return EsftError(f"the output cannot be written: {text}", hint="send it somewhere else")
    text = text if where is None else f"{cut(str(where))}: {text}"
    return EsftError(text, hint="check that the path is right, yours, and on a disk with room")


def _require_current_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise RunError(
            f"the current folder is not there ({error.strerror}), expected one to work in",
            hint="cd to a folder that exists",
        ) from error


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Fine-tune a language model with evolution strategies, without backpropagation and
    without losing what it could do before.

    \b
    Start here:
      esft tune quickstart
      esft tasks

    \b
    The shell completes commands, options, runs, recipes and tasks after
      eval "$(_ESFT_COMPLETE=bash_source esft)"    in ~/.bashrc (zsh: zsh_source)
      _ESFT_COMPLETE=fish_source esft | source     in fish
    """


SHARED = ("tune", "resume", "eval")
"""Commands that the processes of a torchrun share."""
COMMANDS = (
    tune,
    probe,
    resume,
    ask,
    replay,
    evaluate,
    plasticity,
    export,
    verify,
    report,
    runs,
    rm,
    tasks,
    bench,
    cache,
    recipes,
    settings,
    plan,
    doctor,
)
for command in COMMANDS:
    main.add_command(command)

"""The command line: each command parses, calls one function of the library and prints.

Knows nothing of tensors, files or formulas: what works here works from a Python prompt too.
"""

import click

from esft import __version__
from esft.cli.cache import cache
from esft.cli.eval import evaluate
from esft.cli.export import export, replay
from esft.cli.runs import report, runs, verify
from esft.cli.tasks import tasks
from esft.cli.tune import resume, tune
from esft.errors import EsftError


class _Main(click.Group):
    """Prints what a user can fix without a traceback, and turns Ctrl-C into exit code 130."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except EsftError as error:
            click.echo(f"Error: {error}", err=True)
            if error.hint is not None:
                click.echo(f"Hint: {error.hint}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(130)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Fine-tune a language model with evolution strategies, without backpropagation and
    without losing what it could do before.

    \b
    Start here:
      esft tune quickstart
      esft tasks
    """


for command in (tune, resume, replay, evaluate, export, verify, report, runs, tasks, cache):
    main.add_command(command)

"""What commands print, made again: tables of README and docs/, and docs/cli.md with all help.

    python tests/harness/readme.py [WORD]

A table stands between <!-- COMMAND --> and <!-- end -->; WORD takes those whose command
has it. What the command prints goes between, as it is. docs/cli.md is made by "readme.py cli.md".
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click

from esft.cli import main

README = Path(__file__).parents[2] / "README.md"
CLI = README.parent / "docs" / "cli.md"
BLOCK = re.compile(r"<!-- (esft .*?) -->\n.*?<!-- end -->", re.DOTALL)
HEAD = """# The commands of esft

What `--help` says of each; `python tests/harness/readme.py cli.md` makes this page.
"""


def made(block, word):
    """Return a block with what its command prints now."""
    command = block[1]
    if word not in command:
        return block[0]
    words = [sys.executable, "-m", *shlex.split(command)]
    printed = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    # A table of Markdown stands as it is; what is meant for a terminal, as code.
    text = printed if printed.startswith("|") else f"```text\n$ {command}\n{printed}\n```"
    return f"<!-- {command} -->\n\n{text}\n\n<!-- end -->"


def cli_page():
    """Return the help of every command, those within a command after it, as a page of Markdown."""
    return "\n".join([HEAD, *_help(main, "esft", None)])


def _help(command, name, parent):
    context = click.Context(command, info_name=name, parent=parent, terminal_width=80)
    context.help_option_names = main.context_settings["help_option_names"]
    yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
    for inner, one in sorted(getattr(command, "commands", {}).items()):
        yield from _help(one, inner, context)


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word in CLI.name:
        CLI.parent.mkdir(exist_ok=True)
        CLI.write_text(cli_page())
    for page in (README, *sorted(CLI.parent.glob("*.md"))):
        page.write_text(BLOCK.sub(lambda block: made(block, word), page.read_text()))

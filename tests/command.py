"""Commands as they are typed, in the process of the test or in processes of their own."""

import subprocess
import sys

from click.testing import CliRunner

from esft.cli import main


def esft(*words, width=80, typed=None):
    """Return what `esft WORDS` came to on a terminal of this width, where `typed` is answered."""
    words = list(map(str, words))
    return CliRunner().invoke(main, words, input=typed, env={"COLUMNS": str(width)})


def at_once(folder, *commands):
    """Run commands at the same time in `folder`, a process each; return the finished ones."""
    pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "esft", *map(str, command)], cwd=folder, text=True, **pipes
        )
        for command in commands
    ]
    texts = [process.communicate(timeout=300) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *both)
        for process, both in zip(started, texts, strict=True)
    ]

"""Commands as they are typed, in the process of the test or in processes of their own."""

import multiprocessing
import os
import sys
from threading import Timer
from unittest import mock

from click.testing import CliRunner

from esft.__main__ import run
from esft.cli import main


def esft(*words, width=80, typed=None):
    """Return what `esft WORDS` came to on a terminal of this width, where `typed` is answered."""
    words = list(map(str, words))
    return CliRunner().invoke(main, words, input=typed, env={"COLUMNS": str(width)})


LLAMA = "transformers.models.llama.modeling_llama"


class Started:
    """`esft WORDS` in a process of its own in `folder`, with libraries that were loaded once."""

    def __init__(self, folder, *words):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["command", "esft.tuning.start", "esft.report.write", LLAMA])
        pipes = [context.Pipe(duplex=False) for _ in range(2)]
        senders = [sender for _, sender in pipes]
        arguments = (str(folder), ["esft", *map(str, words)], dict(os.environ), *senders)
        self._process = context.Process(target=_run, args=arguments)
        # Before Python 3.13 the server that loads them looks at no other path than this one.
        with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
            self._process.start()
        self._end = Timer(120, self._process.kill)  # one that hangs holds up no session
        self._end.start()
        for sender in senders:
            sender.close()
        self.stdout, self.stderr = (
            os.fdopen(os.dup(receiver.fileno()), encoding="utf-8") for receiver, _ in pipes
        )
        self.returncode = None

    def send_signal(self, number):
        os.kill(self._process.pid, number)

    def communicate(self):
        """Wait for its end; return what else it wrote to stdout and stderr."""
        with self.stdout, self.stderr:  # of stdout there is less than a pipe holds
            stderr = self.stderr.read()
            stdout = self.stdout.read()
        self._process.join()
        self._end.cancel()
        self.returncode = self._process.exitcode
        return stdout, stderr


def _run(folder, words, environment, stdout, stderr):
    os.environ.update(environment)
    os.chdir(folder)
    os.dup2(stdout.fileno(), 1)
    os.dup2(stderr.fileno(), 2)
    sys.argv = words
    run()

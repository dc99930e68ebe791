"""Whether the hub can be reached is known soon, and its libraries do not write on the screen."""

import logging
import socket
import sys
import warnings
from threading import Event

import click
from click.testing import CliRunner
from loopback_hub import LoopbackHub

import esft.cli
from esft.hub import DownloadBar, answer_of, showing_downloads, silent


def test_a_hub_that_answers_whatever_it_says_can_be_reached(tmp_path):
    with LoopbackHub(tmp_path) as hub:
        assert isinstance(answer_of(hub.url), int)


def test_one_where_nobody_listens_or_that_says_nothing_is_given_up_with_the_reason():
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("", 0)) as gone:
        ports = [one.getsockname()[1] for one in (mute, gone)]
        gone.close()

        nothing, refused = (answer_of(f"http://127.0.0.1:{port}") for port in ports)

        assert "timed out" in nothing or nothing == "no answer within 2 s"
        assert "refused" in refused


def test_a_name_that_is_looked_up_for_ever_is_given_up_too(monkeypatch):
    looked_up = Event()

    def look_up(*_, **__):
        looked_up.wait()
        raise OSError("it is not there")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    assert answer_of("http://slow.invalid") == "no answer within 2 s"
    looked_up.set()


def test_a_download_is_told_in_megabytes_where_someone_shows_it():
    told = []

    with showing_downloads(lambda *line: told.append(line)):
        bar = DownloadBar(total=5_000_000, initial=1_000_000, desc="model.safetensors")
        with bar:
            bar.update(2_000_000)
            bar.set_postfix_str("1 MB/s")
    DownloadBar(total=5_000_000).update(1)

    assert told == [("downloading model.safetensors, MB", 3, 5)]


def test_what_is_written_to_stderr_in_silence_is_gone(capsys):
    with silent():
        print("Loading weights: 100%", file=sys.stderr)
    print("Error", file=sys.stderr)

    assert capsys.readouterr().err == "Error\n"


def test_warnings_and_logs_of_other_packages_stay_off_the_screen_of_a_command():
    @click.command()
    def noisy():
        # As they are outside a test: written to stderr.
        warnings.showwarning = lambda *what: click.echo(what, err=True)
        log = logging.getLogger("a library")
        log.addHandler(logging.StreamHandler())
        warnings.warn("deprecated", FutureWarning, stacklevel=1)
        log.warning("Retrying in 1s [Retry 1/5]")
        click.echo("done")

    main = type(esft.cli.main)(commands=[noisy])

    result = CliRunner().invoke(main, ["noisy"])

    assert (result.stdout, result.stderr) == ("done\n", "")
    assert logging.root.manager.disable == logging.NOTSET

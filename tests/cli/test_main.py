import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from harness.readme import cli_page

from esft import __version__
from esft.cli import main
from esft.recipe.settings import TABLES


def test_help_does_not_import_torch():
    # The answer within a second rests on this: torch alone takes longer.
    script = (
        "import sys\n"
        "from esft.cli import main\n"
        "for arguments in (['--help'], ['tune', '--help']):\n"
        "    main(arguments, standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_python_m_esft_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "esft", "--version"], capture_output=True, text=True, check=True
    )

    assert done.stdout == f"esft {__version__}\n"


def test_options_of_tune_stand_under_their_headings_with_defaults_in_80_columns():
    text = CliRunner().invoke(main, ["tune", "--help"], terminal_width=80).output

    headings = re.findall(r"^(\w[\w ]*):$", text, re.MULTILINE)
    assert headings == ["Model", "Task", "Search", "Anchor", "Prior tasks", "Run", "Other"]
    assert max(len(line) for line in text.splitlines()) <= 80


def test_an_option_is_described_as_its_setting_is_declared():
    text = CliRunner().invoke(main, ["tune", "--help"], terminal_width=80).output

    settings = [setting for kind in TABLES.values() for setting in kind.declared().values()]
    for setting in (setting for setting in settings if setting.flag is not None):
        _, _, described = " ".join(text.split()).partition(f" {setting.flag} ")
        assert setting.help in described
        assert setting.default_text is None or f"[default: {setting.default_text}]" in described


@pytest.mark.parametrize(
    "arguments", [["tun"], ["tune", "--sigmaa", "1"], ["tune", "--steps", "x"]]
)
def test_a_wrong_command_line_exits_with_2(arguments):
    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 2
    assert "Error" in done.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "arguments",
    [
        ("recipes", "check", "my.toml"),  # several things are wrong, each a line
        ("report", f"/tmp/{'a-long-name-' * 5}/that/is/nowhere"),
        ("plan", "quickstart", "--calibrate", "--vram", "12"),  # an error of click's
    ],
)
def test_an_error_is_folded_between_words_on_a_terminal_alone(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "50")
    (tmp_path / "my.toml").write_text("[search]\nsigma = -1\npopulation = 0\n")
    told = []

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        with pytest.raises(SystemExit):
            main(arguments)
        told.append(stream.getvalue())

    folded, whole = told
    assert folded.split() == whole.split()
    assert all(len(line) <= 50 or "/" in line for line in folded.splitlines())
    assert "\n       " in folded  # under the label
    assert "\n   " not in whole


def run_python(code, *words, **options):
    """Run the command line behind some code, in a process of its own."""
    command = [sys.executable, "-c", f"{code}\nfrom esft.__main__ import run\nrun()", *words]
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


WHILE_IT_IS_IMPORTED = """
import signal, sys
class Interrupts:
    def find_spec(name, path, target=None):
        if name == "click":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupts)
"""
AT_ITS_END = "import atexit, signal; atexit.register(signal.raise_signal, signal.SIGINT)"
WHILE_IT_READS_WORDS = """
import signal
from esft.cli import main
parse = main.parse_args
def parse_args(*args):
    signal.raise_signal(signal.SIGINT)
    return parse(*args)
main.parse_args = parse_args
"""


@pytest.mark.parametrize("code", [WHILE_IT_IS_IMPORTED, AT_ITS_END, WHILE_IT_READS_WORDS])
def test_ctrl_c_is_130_without_a_traceback_at_any_moment(code):
    done = run_python(code, "--version")

    assert done.returncode == 130
    assert done.stderr in ("", "Stopped.\n")


def test_who_starts_esft_with_ctrl_c_ignored_has_it_ignored():
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"

    assert run_python(ignored + WHILE_IT_IS_IMPORTED, "--version").returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["tasks"], ["runs", "--json"]])
def test_an_output_that_cannot_be_written_is_said(words):
    with open("/dev/full", "w") as full:
        done = run_python("", *words, stdout=full)

    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: the output cannot be written: No space left on device",
        "Hint: send it somewhere else",
    ]


def test_a_current_folder_that_is_gone_is_said_before_anything_is_done(tmp_path):
    done = run_python("import os; os.rmdir(os.getcwd())", "runs", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr.startswith("Error: the current folder is not there (No such file")
    assert "Hint: cd to a folder" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["tune", "--model", "tiny", "--task", "arc", "--run-dir", "x" * 5000],
        ["resume", "x" * 5000],
        ["verify", "x" * 5000],
        ["report", "x" * 5000],
        ["replay", "x" * 5000, "--out", "y"],
        ["tasks", "arc", "--data-dir", "x" * 5000],
    ],
)
def test_a_path_that_is_too_long_is_an_error_without_a_traceback(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    done = CliRunner().invoke(main, words)

    assert done.exit_code == 1
    assert re.match(r"Error: (runs/)?x{60,}…: File name too long\nHint: ", done.stderr)
    assert not list(Path(tmp_path).iterdir())


def test_the_page_of_commands_is_what_their_help_says():
    text = Path(__file__).parents[2].joinpath("docs", "cli.md").read_text()

    assert text == cli_page(), "python tests/harness/readme.py cli.md makes it again"
    assert text.count("\n## esft ") > len(main.commands)

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

from esft import __version__
from esft.cli import main


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


def test_options_of_tune_stand_under_their_headings_with_defaults():
    text = CliRunner().invoke(main, ["tune", "--help"], terminal_width=80).output

    headings = re.findall(r"^(\w+):$", text, re.MULTILINE)
    assert headings == ["Model", "Task", "Search", "Anchor", "Run", "Other"]
    plain = " ".join(text.split())
    for expected in ("--steps", "[default: 500]", "[default: 30]", "[default: 0.001]", "--set"):
        assert expected in plain


def test_help_fits_80_columns():
    for arguments in (["--help"], ["tune", "--help"]):
        text = CliRunner().invoke(main, arguments, terminal_width=80).output
        assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    "arguments", [["tun"], ["tune", "--sigmaa", "1"], ["tune", "--steps", "x"]]
)
def test_a_wrong_command_line_exits_with_2(arguments):
    done = CliRunner().invoke(main, arguments)

    assert done.exit_code == 2
    assert "Error" in done.stderr

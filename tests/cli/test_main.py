import re
import subprocess
import sys

import pytest
from click.testing import CliRunner

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

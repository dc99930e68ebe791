"""Commands as they are typed, in the process of the test."""

from click.testing import CliRunner

from esft.cli import main


def esft(*words, width=80):
    """Return what `esft WORDS` came to on a terminal of this width."""
    return CliRunner().invoke(main, list(map(str, words)), env={"COLUMNS": str(width)})

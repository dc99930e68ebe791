"""README's tables that commands of esft make, made again.

    python tests/harness/readme.py [WORD]

Each stands between <!-- COMMAND --> and <!-- end -->; WORD takes those whose command has it. What
the command prints goes between, as it is.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"<!-- (esft .*?) -->\n.*?<!-- end -->", re.DOTALL)


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


if __name__ == "__main__":
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    README.write_text(BLOCK.sub(lambda block: made(block, word), README.read_text()))

"""Kill a run on the embedded model again and again, and compare what is left when resumed.

python tests/harness/kills.py 20 [lowrank]
"""

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kills import (
    PLACES,
    embedded_recipe,
    in_process,
    killed_and_resumed,
    tune,
    what_is_left,
)


def main(number, noise="full"):
    """Return how many of `number` runs, killed at random once or twice, end otherwise."""
    draw = random.Random(0)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        _, passed = in_process(tune, embedded_recipe(whole, noise))
        expected = what_is_left(whole)
        for run in range(number):
            place = list(PLACES)[run % len(PLACES)]
            kills = [(place, draw.randrange(passed[place]))]
            if run % 2:
                other = draw.choice(list(PLACES))
                kills.append((other, draw.randrange(max(1, passed[other] // 3))))
            path = Path(folder) / f"run-{run}"
            codes = killed_and_resumed(path, kills, noise)
            left = what_is_left(path)
            wrong = [key for key in expected if left[key] != expected[key]]
            failures += bool(wrong)
            print(run, kills, codes, ", ".join(wrong) or "the same", flush=True)
    print(f"{failures} of {number} runs ended otherwise")
    return failures


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, *sys.argv[2:]) > 0)

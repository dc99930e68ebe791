"""Kill a run on the embedded model again and again, and compare what is left when resumed.

python tests/harness/kills.py 20 [lowrank | int8 | int4 | replay | "int4 lowrank"]
"""

import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kills import (
    PLACES,
    coded_recipe,
    embedded_recipe,
    in_process,
    killed_and_resumed,
    tune,
    what_is_left,
)


def main(number, kind="full"):
    """Return how many of `number` runs of a kind, killed at random once or twice, end otherwise."""
    draw = random.Random(0)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        coded = kind not in ("full", "lowrank")
        recipe = coded_recipe(whole, kind) if coded else embedded_recipe(whole, kind)
        _, passed = in_process(tune, recipe)
        expected = what_is_left(whole)
        for run in range(number):
            places = [place for place in PLACES if passed[place]]
            place = places[run % len(places)]
            kills = [(place, draw.randrange(passed[place]))]
            if run % 2:
                other = draw.choice(places)
                kills.append((other, draw.randrange(max(1, passed[other] // 3))))
            path = Path(folder) / f"run-{run}"
            kinds = {"weights": kind} if coded else {"noise": kind}
            codes = killed_and_resumed(path, kills, **kinds)
            left = what_is_left(path)
            wrong = [key for key in expected if left[key] != expected[key]]
            failures += bool(wrong)
            print(run, kills, codes, ", ".join(wrong) or "the same", flush=True)
    print(f"{failures} of {number} runs ended otherwise")
    return failures


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, *sys.argv[2:]) > 0)

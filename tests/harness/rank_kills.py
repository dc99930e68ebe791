"""Kill ranks of runs on the embedded model at random moments; compare what is left when resumed.

python tests/harness/rank_kills.py 20 [SEED]
"""

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kills import embedded_recipe, what_is_left
from rank_runs import on_ranks, resume, tune

NOISES = ("full", "lowrank")


def main(number, seed=0):
    """Return how many of `number` runs, of 2 or 3 ranks one of which is killed, end otherwise."""
    draw, failures, slowest = random.Random(seed), 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        expected, took = {}, {}
        for noise in NOISES:
            on_ranks(1, tune, embedded_recipe(Path(folder) / noise, noise))
            expected[noise] = what_is_left(Path(folder) / noise)
            began = time.monotonic()
            on_ranks(2, tune, embedded_recipe(Path(folder) / f"{noise}-2", noise))
            took[noise] = time.monotonic() - began
        for run in range(number):
            noise, path = NOISES[run % 2], Path(folder) / f"run-{run}"
            world, again = draw.choice((2, 3)), draw.choice((1, 2, 3))
            rank, moment = draw.randrange(world), draw.uniform(0.2, 0.8) * took[noise]
            killed = []

            def kill(processes, rank=rank, moment=moment, killed=killed):
                time.sleep(moment)
                processes[rank].kill()
                killed.append(time.monotonic())

            ended = on_ranks(world, tune, embedded_recipe(path, noise), meanwhile=kill)
            slowest = max(slowest, time.monotonic() - killed[0])
            begun = path.exists()
            work = (resume, path) if begun else (tune, embedded_recipe(path, noise))
            resumed = on_ranks(again, *work)
            left = what_is_left(path)
            wrong = [key for key in left if left[key] != expected[noise][key]]
            failures += bool(wrong) or any(one.code for one in resumed)
            what = f"{noise}: rank {rank} of {world} after {moment:.1f} s"
            what += f", codes {[one.code for one in ended]}, {'resumed' if begun else 'again'} on"
            print(run, what, again, ", ".join(wrong) or "the same", flush=True)
    print(f"{failures} of {number} runs ended otherwise; the others ended within {slowest:.0f} s")
    return failures


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:] or ["20"])) > 0)

"""What anchor and drift take in memory: peak private dirty memory of a run, less that of scoring.

    python tests/harness/anchor_memory.py MODEL [DIR]

MODEL is a folder or a .gguf file, DIR keeps the runs. Each figure comes from a process of its own,
from its first scoring on; files that are mapped do not count. Linux only.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROWS = 12
TOKENS = 16
KINDS = ("float32", "float16", "int8")
STORES = ("disk", "cpu", "device")
PLAIN = f"""
import sys
from esft.engine import Weights
from esft.models.load import load_model
from esft.rollout.rollout import Rollout
from esft.tasks.registry import get_task
from esft.tasks.rows import split_rows

loaded = load_model(sys.argv[1], dtype="bfloat16", device="cpu")
if loaded.folder is not None:
    for parameter in loaded.model.parameters():
        parameter.data = parameter.data.clone()  # in memory of its own, not mapped from a file
task = get_task("conciseness")
rollout = Rollout(loaded.model, loaded.tokenizer, task, max_new_tokens={TOKENS})
split = split_rows(task, {ROWS}, {ROWS})
train, holdout = rollout.encode(split.train), rollout.encode(split.holdout)
print("scoring", Weights(loaded.model).numel, file=sys.stderr, flush=True)
for _ in range(3):
    rollout.roll_out(train)
    rollout.evaluate(holdout)
"""


def tune_command(model, folder, store, kind):
    """Return the command of a run of two steps with a decay."""
    settings = {
        "task.train": ROWS,
        "task.holdout": ROWS,
        "task.max_new_tokens": TOKENS,
        "anchor.store": store,
        "anchor.drift": kind,
        "run.snapshot_every": 1,
        "run.dir": str(folder),
    }
    words = ["--task", "conciseness", "--awd", "0.01", "--steps", "2", "--population", "2"]
    words += ["--sigma", "0.006", "--alpha", "0.004", "--seed", "1", "--dtype", "bfloat16"]
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [sys.executable, "-m", "esft", "tune", "--model", model, *words, *sets]


def peak_of(command):
    """Return a command's most private dirty bytes from where it says that it scores, and that."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    scoring = threading.Event()
    said = []

    def listen():
        for line in process.stderr:
            said.append(line)
            if line.startswith("scoring"):
                scoring.set()

    listener = threading.Thread(target=listen)
    listener.start()
    peak = 0
    while process.poll() is None:
        if scoring.is_set():
            peak = max(peak, _private_dirty(process.pid))
        time.sleep(0.005)
    listener.join()
    if process.returncode:
        raise SystemExit("".join(said))
    return peak, next(line for line in said if line.startswith("scoring"))


def _private_dirty(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split() for line in lines]
    return sum(int(line[1]) * 1024 for line in found if line[0] == "Private_Dirty:")


def main(model, folder):
    """Print a line for every store and kind of drift."""
    (first, said), (second, _) = (peak_of([sys.executable, "-c", PLAIN, model]) for _ in range(2))
    plain, parameters = min(first, second), int(said.split()[1])
    print(f"{parameters:,} parameters; scoring alone {first / 1e6:.0f}, {second / 1e6:.0f} MB")
    for store in STORES:
        for kind in KINDS:
            peak, _ = peak_of(tune_command(model, folder / f"{store}-{kind}", store, kind))
            more = peak - plain
            print(
                f"{store:<7} {kind:<8} {more / 1e6:.0f} MB ({more / parameters:.2f} B)", flush=True
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(scratch))

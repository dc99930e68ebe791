"""What `esft plan` foretells against a run: memory at its peak, time of a step.

    python tests/harness/plan_costs.py RECIPE [OPTIONS OF TUNE]

The run has a process of its own. Its memory is the peak of what is private and dirty above the
interpreter with all modules that a run imports; files that are mapped do not count. Of a busy
machine the times are as good as its quiet moments. Linux only.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STEPS = 3
CHILD = """
import importlib, json, sys
from contextlib import suppress
for name in json.loads(sys.stdin.readline()):
    with suppress(Exception):
        importlib.import_module(name)
print("ready", flush=True)
sys.stdin.readline()
from esft.cli import main
main(sys.argv[1:], standalone_mode=False)
print(json.dumps(sorted(sys.modules)))
"""


def run(words, modules):
    """Run a command of esft in a child; return its peak above its start, and its output.

    Looking at the memory of a process holds it up: a run that is timed is another one.
    """
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    command = [sys.executable, "-c", CHILD, *words]
    child = subprocess.Popen(command, text=True, stderr=subprocess.DEVNULL, **pipes)
    child.stdin.write(json.dumps(modules) + "\n")
    child.stdin.flush()
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    start = peak = private_dirty(child.pid)
    child.stdin.write("\n")
    child.stdin.flush()
    with ThreadPoolExecutor(1) as reader:  # a full pipe would stop the child
        said = reader.submit(child.stdout.read)
        while child.poll() is None:
            peak = max(peak, private_dirty(child.pid))
            time.sleep(0.02)
    if child.returncode:
        raise SystemExit(f"esft {' '.join(words)} ended with {child.returncode}")
    return peak - start, said.result()


def private_dirty(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))


def planned(words, *more):
    done = subprocess.run(
        [sys.executable, "-m", "esft", "plan", *words, *more, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)[0]


def main(words):
    """Print what was foretold and what was measured."""
    with tempfile.TemporaryDirectory() as scratch:
        tune = ["tune", *words, "--run-dir"]
        small = ["--model", "embedded", "--task", "copy-letters", "--set", "task.train=4"]
        small += ["--set", "task.holdout=4", "--steps", "1", "--population", "2"]
        _, said = run(["tune", *small, "--run-dir", f"{scratch}/small"], [])
        modules = json.loads(said.splitlines()[-1])
        memory = planned(words)["memory"]
        foretold = memory["on_device"] + memory["on_host"]
        before = planned(words, "--calibrate")["times"]["step"]
        peak, _ = run([*tune, f"{scratch}/run", "--steps", str(STEPS)], modules)
        command = [sys.executable, "-m", "esft", *tune, f"{scratch}/timed", "--steps", str(STEPS)]
        subprocess.run(command, check=True, capture_output=True)
        after = planned(words, "--calibrate")["times"]["step"]
        lines = Path(f"{scratch}/timed/metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["seconds"] for line in lines]
        step = statistics.median(steps)
    print(f"memory {foretold / 1e6:.0f} MB foretold, {peak / 1e6:.0f} MB measured: "
          f"{foretold / peak - 1:+.1%}")  # fmt: skip
    print(json.dumps(memory))
    for label, seconds in (("before", before), ("after", after)):
        print(f"step {seconds:.2f} s foretold {label}, median {step:.2f} s measured: "
              f"{seconds / step - 1:+.1%}; steps {[round(one, 2) for one in steps]}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])

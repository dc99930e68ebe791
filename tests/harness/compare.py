"""Compares option scores with lm-evaluation-harness, row by row, and writes scores.json.

Not a test: run it where lm_eval is installed beside esft (pip install lm_eval==0.4.13).

    ESFT_DATA_DIR=... ESFT_TEST_MODEL=... python tests/harness/compare.py --rows 100
    ESFT_DATA_DIR=... ESFT_TEST_MODEL=... python tests/harness/compare.py --rows 8 --write
"""

import argparse
import json
import os
import tempfile
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from esft.evals.measured import MeasuredTask
from esft.evals.run import EvalRequest, run_eval
from esft.models.load import load_model
from esft.tasks.registry import get_task
from esft.tuning.watcher import Watcher

FIXTURE = Path(__file__).with_name("scores.json")
THEIRS = Path(lm_eval.__file__).parent / "tasks"
FILES = {
    "arc": ("arc_challenge.test", "arc/arc_challenge.yaml"),
    "arc-easy": ("arc_easy.test", "arc/arc_easy.yaml"),
    "hellaswag": ("hellaswag.validation", "hellaswag/hellaswag.yaml"),
    "mmlu": ("mmlu.test", "mmlu/default/mmlu_{subject}.yaml"),
    "piqa": ("piqa.validation", "piqa/piqa.yaml"),
    "winogrande": ("winogrande.validation", "winogrande/default.yaml"),
}
CONFIG = """\
include: {include}
task: {name}
tag: null
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    test: {rows}
    dev: {rows}
training_split: null
validation_split: null
test_split: test
fewshot_split: null
"""


class Quiet(Watcher):
    """Tells nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100, help="rows of each task")
    parser.add_argument("--write", action="store_true", help=f"write {FIXTURE.name}")
    arguments = parser.parse_args()
    data = Path(os.environ["ESFT_DATA_DIR"])
    rows = {
        task: [json.loads(line) for line in first_lines(data / f"{file}.jsonl", arguments.rows)]
        for task, (file, _) in FILES.items()
    }
    model = os.environ["ESFT_TEST_MODEL"]
    theirs = their_rows(load_model(model, dtype="float32", device="cpu"), rows)
    for measured in ours_of(model, rows):
        task = get_task(measured.task.name)
        # Theirs in the order of esft's, which is that of the hash of what rows ask.
        order = sorted(
            enumerate(theirs[task.name]), key=lambda at: task.read(rows[task.name][at[0]]).key
        )
        print(line_of(task.name, our_rows(measured), [row for _, row in order]), flush=True)
    if arguments.write:
        scores = {task: [row["logprobs"] for row in found] for task, found in theirs.items()}
        head = {"lm_eval": version("lm_eval"), "dtype": "float32", "files": {}}
        head["files"] = {task: file for task, (file, _) in FILES.items()}
        FIXTURE.write_text(json.dumps(head | {"logprobs": scores}, indent=1) + "\n")


def ours_of(model: str, rows: dict[str, list[dict]]) -> tuple[MeasuredTask, ...]:
    """What esft eval measures on these rows alone."""
    with tempfile.TemporaryDirectory() as folder:
        for task, (file, _) in FILES.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows[task])
            (Path(folder) / f"{file}.jsonl").write_text(lines)
        priors = tuple(f"{task}:{len(rows[task])}" for task in FILES)
        request = EvalRequest(
            models=(model,), dtype="float32", device="cpu", priors=priors, data_dir=folder
        )
        return run_eval(request, Quiet()).measured


def first_lines(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        return [line for line, _ in zip(lines, range(count), strict=False)]


def their_rows(loaded, rows: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """What lm-evaluation-harness makes of the rows, in their order."""
    with tempfile.TemporaryDirectory() as folder:
        names = write_tasks(Path(folder), rows)
        result = lm_eval.simple_evaluate(
            model=HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=16),
            tasks=list(names),
            num_fewshot=0,
            task_manager=TaskManager(include_path=folder, include_defaults=False),
            log_samples=True,
            bootstrap_iters=0,
        )
    found = defaultdict(dict)
    for name, (task, places) in names.items():
        samples = sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
        for place, sample in zip(places, samples, strict=True):
            found[task][place] = {
                "logprobs": [float(answer[0][0]) for answer in sample["resps"]],
                "acc": sample["acc"],
                "acc_norm": sample.get("acc_norm"),
            }
    return {task: [by_place[i] for i in sorted(by_place)] for task, by_place in found.items()}


def write_tasks(folder: Path, rows: dict[str, list[dict]]) -> dict[str, tuple[str, list[int]]]:
    """Write their task files with our rows; their name to our task and the places of its rows."""
    names = {}
    for task, every in rows.items():
        groups = defaultdict(list)
        for place, row in enumerate(every):
            groups[row["subject"] if task == "mmlu" else ""].append(place)
        for subject, places in groups.items():
            name = f"local_{task.replace('-', '_')}_{subject}"
            lines = folder / f"{name}.jsonl"
            lines.write_text("".join(json.dumps(every[place]) + "\n" for place in places))
            include = THEIRS / FILES[task][1].format(subject=subject)
            config = CONFIG.format(include=include, name=name, rows=lines)
            (folder / f"{name}.yaml").write_text(config)
            names[name] = (task, places)
    return names


def our_rows(measured: MeasuredTask) -> list[dict]:
    """What esft eval makes of the rows."""
    task, (evaluation,) = measured.task, measured.evaluations
    found = zip(task.rollout.option_logprobs(task.encoded), evaluation.results, strict=True)
    return [
        {"logprobs": logprobs, "acc": result.correct_unnormalized, "acc_norm": result.correct}
        for logprobs, result in found
    ]


def line_of(task: str, ours: list[dict], theirs: list[dict]) -> str:
    worst = max(
        abs(mine - other)
        for left, right in zip(ours, theirs, strict=True)
        for mine, other in zip(left["logprobs"], right["logprobs"], strict=True)
    )
    text = f"{task:<10} {len(ours)} rows, worst difference of a log-probability {worst:.1e}"
    for metric in ("acc", "acc_norm"):
        pairs = [
            (bool(left[metric]), bool(right[metric]))
            for left, right in zip(ours, theirs, strict=True)
            if right[metric] is not None
        ]
        if pairs:
            mine, other = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
            differ = sum(left != right for left, right in pairs)
            text += f"; {metric} {mine:.3f} and {other:.3f}, {differ} rows differ"
    return text


if __name__ == "__main__":
    main()

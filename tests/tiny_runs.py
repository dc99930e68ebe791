"""Runs on a tiny model, for tests of the loop and the commands."""

import json
from dataclasses import replace
from functools import partial

from tiny_models import write_model

from esft.recipe.settings import Anchor, Model, Recipe, Run, Search, TaskSettings
from esft.tuning.population import Population


def a_recipe(folder, *, model=None, anchor=None, task=None, **search):
    """Return a recipe that tunes a tiny model written to `folder` for a few steps."""
    model_folder = folder / "base"
    if not model_folder.exists():
        write_model(model_folder, model)
    settings = {"seed": 1, "steps": 3, "population": 4, "sigma": 0.02, "alpha": 0.02} | search
    rows = {"train": 6, "holdout": 5, "max_new_tokens": 6} | (task or {})
    return Recipe(
        model=Model(id=str(model_folder), device="cpu"),
        task=TaskSettings(name="conciseness", **rows),
        search=Search(**settings),
        anchor=Anchor(**(anchor or {})),
        run=Run(dir=str(folder / "run")),
    )


def write_arc(folder, rows=4):
    """Make a data folder with a few rows of arc and arc-easy, labelled 1 to 3."""
    folder.mkdir()
    for file in ("arc_challenge", "arc_easy"):
        for split in ("train", "validation"):
            lines = [
                json.dumps(
                    {
                        "id": f"{split}-{number}",
                        "question": f"What is {split} {number}?",
                        "choices": {"text": ["one", "two", "three"], "label": ["1", "2", "3"]},
                        "answerKey": "2",
                    }
                )
                for number in range(rows)
            ]
            (folder / f"{file}.{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class GivenRewards(Population):
    """Rolls out members and gives them other rewards."""

    def __init__(self, rewards, session):
        super().__init__(session)
        self._rewards = rewards

    def roll_out(self, *args):
        pairs = zip(super().roll_out(*args), self._rewards, strict=False)
        return [[replace(result, reward=reward) for result in rows] for rows, reward in pairs]


def given_rewards(*rewards):
    """Return what `run_tuning` takes as population: its members have these rewards, in order."""
    return partial(GivenRewards, iter(rewards))


class Notes:
    """Keeps what a run tells."""

    def __init__(self):
        self.plans, self.phases, self.notices = [], [], []
        self.rebuilds, self.progressed = [], []
        self.left, self.steps, self.evaluations, self.shown = [], [], [], []

    def plan(self, lines):
        self.plans.append(lines)

    def begin(self, base, done, steps):
        self.phases.append("begin")

    def phase(self, text):
        self.phases.append(text)

    def rebuild(self, since, to, seconds):
        self.rebuilds.append((since, to, seconds))

    def progress(self, text, done, total):
        self.progressed.append((text, done, total))

    def members(self, done, total, left):
        self.left.append((done, total, left))

    def step(self, metrics, left):
        self.steps.append(metrics)

    def answers(self, title, samples):
        self.shown.append((title, samples))

    def evaluation(self, step, scores):
        self.evaluations.append((step, scores))

    def notice(self, text):
        self.notices.append(text)


def jsonl(path):
    """Return the records of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def info_of(run):
    """Return the content of run.json."""
    return json.loads((run / "run.json").read_text())


def never():
    """Never stop."""
    return False

"""The card of an exported model: what the hub reads, and what a reader must know."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from tiny_runs import Notes

from esft.engine.journal_read import lines_until
from esft.export.card import QUESTION, Example, Exported, card, comparison_text, example_of
from esft.export.compare import Conversion
from esft.export.folder import base_of
from esft.export.journal import export_journal
from esft.models.load import load_model
from esft.rollout.batches import Batches
from esft.rollout.encode import encode_prompt
from esft.rollout.generate import greedy_answers
from esft.rollout.typed import json_text
from esft.runs.records import RecordedRow
from esft.tasks.task import Question
from esft.tuning.rebuild import RebuildOptions, find_source
from esft.tuning.tasks import task_and_rows

EXPORTED = Exported(
    step=3,
    best=0,
    base="base",
    revision=None,
    base_weights="b" * 64,
    tuned_weights="c" * 64,
    recorded=True,
    parameters=29_000,
    drift=1.5,
    tuned_dtype="float32",
    device="cpu",
    dtype="float32",
    weights="d" * 64,
    prompts=32,
    prompts_from="32 holdout rows of conciseness",
    conversion=None,
)
CONVERTED = replace(
    EXPORTED,
    dtype="bfloat16",
    conversion=Conversion(
        positions=100, logits=26_100, largest_difference=0.25, mean_kl=0.5, same_answers=31
    ),
)


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run, whose files a test may change."""
    return shutil.copytree(run, tmp_path / "run")


def change_info(run, **changes):
    """Set values of run.json, such as settings={"task.name": ...}."""
    info = json.loads((run / "run.json").read_text())
    for key, values in changes.items():
        info[key] |= values
    (run / "run.json").write_text(json.dumps(info))


def card_of(run, exported=EXPORTED, **changes):
    return card(find_source(str(run)), replace(exported, **changes))


def test_the_hub_reads_what_the_model_is(run):
    text = card_of(run, base="Qwen/Qwen2.5-1.5B", revision="abc123")

    data = ModelCard(text).data
    assert data.base_model == "Qwen/Qwen2.5-1.5B"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert "esft" in data.tags
    assert data.license is None
    assert "# Qwen2.5-1.5B, tuned on conciseness" in text
    assert "`Qwen/Qwen2.5-1.5B` at commit `abc123`" in text
    assert "The licence is that of the base model." in text
    assert ModelCard(card_of(run)).data.base_model is None


def test_a_base_model_is_called_as_the_run_found_it(run, copied):
    local = load_model(str(run.parent / "base"), device="cpu")
    here = base_of(find_source(str(copied)), local)
    change_info(copied, model={"source": "org/name@0123abc", "id": "name"})

    assert here == ("base", None)
    assert base_of(find_source(str(copied)), local) == ("org/name", "0123abc")


def test_no_path_of_this_machine_is_in_the_card(run, copied, tmp_path):
    names = {"task.name": str(tmp_path / "my.jsonl"), "prior.tasks": [str(tmp_path / "b.py")]}
    change_info(copied, settings=names)

    text = card_of(copied)

    for path in (tmp_path.parent, run.parent, Path.home()):
        assert str(path) not in text
    assert "- task: `my.jsonl`" in text
    assert "- prior.tasks: b.py" in text


def test_the_card_has_the_settings_and_the_step_with_its_scores(run):
    base, now = [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]

    text = card_of(run)

    for line in (
        "- step: 3; best by reward on holdout rows: 0",
        "- search.seed: 1",
        "- search.sigma: 0.02",
        "- search.population: 4",
        "- search.antithetic: false",
        "- anchor.awd: 0.5",
        "- anchor.norm: l1",
        "- task.max_new_tokens: 6",
        "- drift from the base model: norm 1.5 over 29,000 tuned parameters",
    ):
        assert f"{line}\n" in text
    assert f"| {base['reward']:.4f} ± {base['reward_se']:.4f} " in text
    assert f"| {now['reward']:.4f} ± {now['reward_se']:.4f} |" in text
    assert "| `conciseness` | target | 5 |" in text
    for word in ("None", "null", "not measured", "Measured in"):
        assert word not in text


def test_scores_that_are_not_there_and_those_of_before_a_conversion_are_called_so(copied):
    before = card_of(copied, CONVERTED)
    between = card_of(copied, step=2)
    (copied / "evals.jsonl").unlink()

    assert "Measured in float32, before the conversion." in before
    assert "Step 2 was not evaluated: its scores are not known (only 0, 3)." in between
    assert between.count("not measured") == 2
    assert "The run has no evaluation on record." in card_of(copied)


def test_the_card_names_the_journal_and_how_to_rebuild(run):
    record = find_source(str(run)).record

    text = card_of(run, step=2)

    assert f"`{record.checksums[2]}`" in text
    assert hashlib.sha256(lines_until(record, 2).encode()).hexdigest() in text
    assert "    esft replay journal.jsonl --at 2 --model base --out DIR\n" in text


def test_a_card_from_a_journal_alone_says_what_is_not_known(run, tmp_path):
    mailed = tmp_path / "my.jsonl"
    export_journal(find_source(str(run)), "last", mailed, Notes(), RebuildOptions())

    text = card_of(mailed)

    assert "# base\n" in text
    assert "task: not named by the journal" in text
    assert "holds no scores" in text
    assert "- anchor.awd: 0.5\n" in text


def test_what_is_equal_and_what_a_conversion_changed_is_said():
    converted = comparison_text(CONVERTED)

    assert comparison_text(EXPORTED) == (
        "All weights are equal, bit for bit, and so are the tokens of 32 prompts "
        "(32 holdout rows of conciseness)."
    )
    assert "converted from float32 to bfloat16" in converted
    assert "26,100 logits at 100 positions of them differ by at most 0.25" in converted
    assert "mean KL(tuned || exported) 0.5 nats, and 31 of the 32 greedy answers" in converted


def snippet_of(text):
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return code


@pytest.mark.parametrize("template", [True, False])
def test_the_snippet_of_the_card_runs_and_answers_as_it_was_measured(
    template, run, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(run / "model", tmp_path / "model")
    if not template:
        (folder / "chat_template.jinja").unlink()
    loaded = load_model(str(folder), device="cpu")
    prompt = encode_prompt(loaded.tokenizer, Question(messages=QUESTION))
    (answer,) = greedy_answers(loaded.model, loaded.tokenizer, [prompt], 6, Batches())
    code = snippet_of(card_of(run, chat=template))
    monkeypatch.chdir(folder)

    exec(compile(code, "snippet", "exec"), {})

    assert capsys.readouterr().out == answer.text + "\n"
    assert 'name = "me/tuned"' in snippet_of(card_of(run, pushed="me/tuned")).replace("'", '"')


def test_the_card_shows_the_first_row_whose_answer_changed(run, copied):
    source = find_source(str(copied))
    rows = task_and_rows(source.recipe.task)[1].holdout
    texts = [[f"base {n}", f"tuned {n}" if n else "base 0"] for n in range(len(rows))]
    for number, step in enumerate((0, 3)):
        lines = [
            RecordedRow(
                id=row.id, key=row.key, reward=0.0, correct=False, answers=(text[number] + "\n~",)
            )
            for row, text in zip(rows, texts, strict=True)
        ]
        file = copied / "evals" / f"conciseness-{step}.jsonl"
        file.write_text("".join(json_text(line) + "\n" for line in lines))

    example = example_of(source, 3, rows)
    text = card(source, EXPORTED, example)

    asked = rows[1].questions[0].messages
    assert example == Example(messages=asked, before="base 1\n~", after="tuned 1\n~")
    assert f"    {example.asked}\n" in text
    assert "    base 1\n    ~\n\nand this one\n\n    tuned 1\n    ~\n" in text
    assert repr(list(asked)) in snippet_of(text)
    assert example_of(source, 2, rows) is None
    assert example_of(source, 3, rows[:1]) is None
    assert "Before and after" not in card_of(run)

"""An exported step: the tuned model, as it was read again from the disk, or nothing at all."""

import gc
import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_models import (
    VOCABULARY,
    change_weights,
    logits_of,
    same_weights,
    tiny_llama,
    write_model,
)
from tiny_runs import Notes, a_recipe, never, write_arc
from transformers import AutoModelForCausalLM, PreTrainedModel

from esft.errors import ModelError, RunError
from esft.export.compare import NEW_TOKENS, PROMPTS, find_prompts, holdout_rows, output_of
from esft.export.folder import export
from esft.export.journal import export_journal
from esft.models.load import load_model
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.start import run_tuning


def a_run(folder, name="conciseness", **settings):
    """Tune a tiny model in `folder` for a few steps; return the name of its run."""
    recipe = a_recipe(folder, population=2, **settings)
    run_tuning(replace(recipe, task=replace(recipe.task, name=name)), Notes(), never)
    return str(folder / "run")


def exported(run, out, at="last", watcher=None, dtype=None, **options):
    watcher, options = watcher or Notes(), RebuildOptions(**options)
    return export(find_source(str(run)), at, out, watcher, options, dtype)


class WhenLoaded(Notes):
    """Calls `action` when the folder is whole and is to be loaded again."""

    def __init__(self, action):
        super().__init__()
        self._action = action

    def phase(self, text):
        super().phase(text)
        if text.startswith("loading it again"):
            self._action()


def prompts_of(run, notes):
    source = find_source(run)
    return find_prompts(source, holdout_rows(source, notes))


def flip_a_bit(folder):
    change_weights(
        folder, lambda all: all["model.norm.weight"].view(torch.uint8)[0].bitwise_xor_(1)
    )


def stop(_):
    raise KeyboardInterrupt


def set_in(file, **values):
    """Return what changes values of a JSON file in a folder."""

    def change(folder):
        content = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(content | values))

    return change


@pytest.mark.parametrize(
    ("tied", "dtype"), [(True, torch.float32), (False, torch.float32), (True, torch.bfloat16)]
)
def test_the_folder_holds_every_bit_of_the_tuned_model(tied, dtype, tmp_path):
    run = a_run(tmp_path, model=tiny_llama(tied=tied, dtype=dtype))

    dtype = str(dtype).removeprefix("torch.")
    done = exported(run, tmp_path / "out", dtype=dtype, from_base=True)

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert same_weights(again, saved)
    assert logits_of(again).equal(logits_of(saved))
    assert (done.prompts, done.conversion, done.recorded) == (PROMPTS, None, True)
    assert done.weights == done.tuned_weights


def test_the_last_step_of_a_finished_run_is_a_copy_of_what_it_saved(run, tmp_path):
    notes = Notes()

    done = exported(run, tmp_path / "out", watcher=notes)

    there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert there.keys() - {"README.md", "Modelfile"} == {p.name for p in (run / "model").iterdir()}
    assert all(there[path.name] == path.read_bytes() for path in (run / "model").iterdir())
    assert notes.rebuilds == notes.notices == []
    rebuilt = exported(run, tmp_path / "rebuilt", from_base=True)
    alike = replace(rebuilt, prompts=0, prompts_from="", drift=done.drift)
    assert done == alike
    assert done.drift == pytest.approx(rebuilt.drift, rel=1e-12)


@pytest.mark.parametrize("damage", [flip_a_bit, set_in("config.json", rms_norm_eps=1e-5)])
def test_a_saved_model_that_is_not_as_it_was_is_made_again(damage, run, tmp_path):
    copied, notes = shutil.copytree(run, tmp_path / "run"), Notes()
    damage(copied / "model")

    done = exported(copied, tmp_path / "out", watcher=notes)

    assert done.prompts == PROMPTS
    assert notes.notices[0].endswith("; so the step is rebuilt")
    saved = AutoModelForCausalLM.from_pretrained(run / "model")
    assert same_weights(AutoModelForCausalLM.from_pretrained(tmp_path / "out"), saved)


def test_a_copy_that_differs_from_what_was_saved_is_none(run, tmp_path):
    class WhenCopied(Notes):
        def phase(self, text):
            super().phase(text)
            if text.startswith("loading the copy"):
                flip_a_bit(next(tmp_path.glob(".out.*/*/")))

    notes = WhenCopied()

    done = exported(run, tmp_path / "out", watcher=notes)

    assert notes.notices[0].endswith("; so the step is rebuilt")
    assert done.prompts == PROMPTS


def test_any_step_is_exported(run, tmp_path):
    first = exported(run, tmp_path / "first", at="1")
    again = exported(run, tmp_path / "again", at="1", from_base=True)
    base = exported(run, tmp_path / "base", at="0")

    assert first.weights == again.weights == rebuild(find_source(str(run)), "1", Notes()).weights
    assert base.weights == base.base_weights
    assert base.drift == 0 < first.drift
    assert not first.recorded


def test_a_journal_alone_is_exported_with_its_base_model(run, tmp_path):
    mailed = tmp_path / "mailed.jsonl"
    export_journal(find_source(str(run)), "last", mailed, Notes(), RebuildOptions())

    done = exported(mailed, tmp_path / "out")

    assert done.recorded
    assert done.prompts_from == "32 questions of conciseness, which come with esft"


@pytest.mark.parametrize(
    ("tuned", "dtype"), [(torch.float32, "float16"), (torch.bfloat16, "float32")]
)
def test_weights_are_converted_and_the_difference_is_said(tuned, dtype, tmp_path):
    run = a_run(tmp_path, model=tiny_llama(dtype=tuned))

    done = exported(run, tmp_path / "out", dtype=dtype)

    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert same_weights(again, saved.to(getattr(torch, dtype)))
    assert done.dtype == dtype
    assert done.weights != done.tuned_weights
    assert done.conversion.logits == done.conversion.positions * 261
    assert 0 < done.conversion.largest_difference < 0.5
    assert 0 < done.conversion.mean_kl < 0.01
    assert done.conversion.same_answers <= done.prompts


@pytest.mark.parametrize(
    ("factor", "error"),
    [
        (1e9, r"lm_head.weight has weights up to .*e\+0\d, expected at most 65504"),
        (1e5, "gives NaN or infinite logits"),  # the weights fit, their products do not
    ],
)
def test_what_overflows_in_the_dtype_is_refused(factor, error, tmp_path):
    model = tiny_llama(tied=False)
    model.lm_head.weight.data *= factor
    run = a_run(tmp_path, model=model)

    with pytest.raises(RunError, match=error) as caught:
        exported(run, tmp_path / "out", dtype="float16")

    assert caught.value.hint.startswith("take --dtype bfloat16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (flip_a_bit, RunError, "its weights are not those"),
        (set_in("config.json", rms_norm_eps=1e-5), RunError, "rms_norm_eps is 1e-05, expected"),
        (set_in("config.json", sliding_window=4), RunError, "sliding_window is 4, expected None"),
        (set_in("generation_config.json", eos_token_id=[7]), RunError, r"eos_token_id is \[7\]"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
            RunError,
            "its tokenizer splits the prompts otherwise",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{"),
            ModelError,
            "its tokenizer is missing or cannot be read",
        ),
        (stop, KeyboardInterrupt, "^$"),
    ],
)
def test_a_folder_that_is_not_the_tuned_model_is_refused(change, error, message, run, tmp_path):
    watcher = WhenLoaded(lambda: change(next(tmp_path.glob(".out.*/*/"))))

    with pytest.raises(error, match=message):
        exported(run, tmp_path / "out", watcher=watcher, from_base=True)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_tuned_model_is_let_go_before_it_is_loaded_again(dtype, run, tmp_path):
    def models():
        return sum(issubclass(type(held), PreTrainedModel) for held in gc.get_objects())

    gc.collect()
    before, during = models(), []

    watcher = WhenLoaded(lambda: during.append(models()))
    exported(run, tmp_path / "out", watcher=watcher, dtype=dtype, from_base=True)

    assert during == [before]


def test_prompts_of_a_choice_stand_before_its_options_and_others_are_asked_without_rows(tmp_path):
    data, notes = write_arc(tmp_path / "data"), Notes()
    run = a_run(tmp_path, "arc", task={"train": 3, "holdout": 4, "data_dir": str(data)})

    prompts, source = prompts_of(run, notes)
    shutil.rmtree(data)
    others, other_source = prompts_of(run, notes)

    assert prompts[0] == "Question: What is validation 0?\nAnswer:"
    assert len(prompts) == len({str(prompt) for prompt in prompts}) == PROMPTS == len(others)
    assert source.startswith("4 holdout rows of arc and 28 questions of conciseness, which come")
    assert other_source == "32 questions of conciseness, which come with esft"
    assert "questions of conciseness are compared instead" in notes.notices[0]


def test_prompts_longer_than_the_models_context_are_cut_at_the_front(tmp_path):
    base = write_model(tmp_path / "base", tiny_llama(max_position_embeddings=64))
    loaded = load_model(str(base), device="cpu")
    end = (VOCABULARY.index("a"),) * (64 - NEW_TOKENS)

    long = output_of(loaded, [(VOCABULARY.index("b"),) * 70 + end])
    short = output_of(loaded, [end])

    assert long.logits.equal(short.logits)
    assert long.answers == short.answers

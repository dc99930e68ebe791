"""A tuned step as the .gguf file that its base model is: whole, the same elsewhere, or nothing."""

import json
import shutil
from dataclasses import replace

import gguf
import numpy as np
import pytest
from command import esft
from gguf import GGMLQuantizationType
from tiny_models import logits_of, tiny_llama, tiny_qwen2, write_gguf
from tiny_runs import Notes, a_recipe, info_of, never

from esft.engine.coded import coded_of
from esft.engine.weights import identity
from esft.errors import EsftError, RunError
from esft.export.gguf import export_gguf
from esft.export.journal import export_journal
from esft.models.load import load_model
from esft.tuning.rebuild import RebuildOptions, find_source, rebuild
from esft.tuning.start import run_tuning

KEYS = {"esft.base", "esft.journal", "esft.settings"}
UP = "model.layers.0.mlp.up_proj.weight"
TUNED = "blk.{}.attn_q blk.{}.attn_k blk.{}.attn_v blk.{}.attn_output"
TUNED += " blk.{}.ffn_gate blk.{}.ffn_up blk.{}.ffn_down"
MATRICES = {f"{name.format(layer)}.weight" for name in TUNED.split() for layer in (0, 1)}


def tuned(folder, file, weights="codes", dtype="float32", name="run", include=None, **search):
    """Tune the model of a .gguf file, or of a folder, for two steps; return the run's folder."""
    task = {"train": 4, "holdout": 3, "max_new_tokens": 3, "reward": "logprob"}
    scales = {"sigma": 0.02, "alpha": 0.02} if weights == "float" else {"sigma": 0.4, "alpha": 2.0}
    recipe = a_recipe(folder, task=task, **({"population": 2, "steps": 2} | scales | search))
    model = {"id": str(file), "weights": weights, "dtype": dtype, "include": include}
    recipe = replace(
        recipe,
        model=replace(recipe.model, **model),
        task=replace(recipe.task, name="subtract-two-digits"),
        run=replace(recipe.run, dir=str(folder / name)),
    )
    run_tuning(recipe, Notes(), never)
    return folder / name


def exported(run, out, at="last", kind=None, watcher=None, **options):
    watcher, options = watcher or Notes(), RebuildOptions(**options)
    return export_gguf(find_source(str(run)), at, out, watcher, options, kind)


def tensors_in(file):
    return {one.name: one for one in gguf.GGUFReader(file).tensors}


def metadata_in(file):
    fields = gguf.GGUFReader(file).fields
    return {name: one.contents() for name, one in fields.items() if not name.startswith("GGUF.")}


def added(source, out):
    """Return the metadata that `out` has more; all else but the type of the file is the same."""
    before, after = metadata_in(source), metadata_in(out)
    kept = {key: value for key, value in after.items() if key not in KEYS}
    assert [*kept] == [*before]
    assert kept == before | {"general.file_type": after["general.file_type"]}
    return {key: after[key] for key in KEYS}


@pytest.fixture(scope="module")
def codes(tmp_path_factory):
    """A run of the codes of a .gguf file with F16 and Q8_0 matrices among those of Q4_1."""
    folder = tmp_path_factory.mktemp("codes")
    kinds = {
        UP: GGMLQuantizationType.F16,
        "model.layers.1.mlp.down_proj.weight": GGMLQuantizationType.Q8_0,
    }
    file = write_gguf(
        folder / "base.gguf", tiny_llama(), kind=GGMLQuantizationType.Q4_1, kinds=kinds
    )
    return tuned(folder, file)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """A run of the floats of a .gguf file."""
    folder = tmp_path_factory.mktemp("floats")
    file = write_gguf(folder / "base.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)
    return tuned(folder, file, "float")


def test_tuned_codes_go_back_into_their_blocks_and_all_else_stays(codes, tmp_path):
    base, out = codes.parent / "base.gguf", tmp_path / "tuned.gguf"

    done = exported(codes, out, from_base=True)

    before, after = tensors_in(base), tensors_in(out)
    assert [*before] == [*after]
    assert [one.tensor_type for one in before.values()] == [
        one.tensor_type for one in after.values()
    ]
    differ = {
        name for name, one in before.items() if not np.array_equal(one.data, after[name].data)
    }
    assert differ == MATRICES - {"blk.0.ffn_up.weight"}
    record = find_source(str(codes)).record
    settings = {key: value for key, value in record.header.items() if key != "parts"}
    assert added(base, out) == {
        "esft.base": record.header["base"],
        "esft.journal": f"step 2, checksum {record.checksums[2]}",
        "esft.settings": json.dumps(settings | {"model": base.name}),  # no folders that lead there
    }
    # What metadata of three keys takes, and no byte of a tensor.
    assert 0 < done.size - done.base_size < 2000
    assert (done.type, done.conversion, done.prompts, done.recorded) == ("codes", None, 0, True)
    assert (done.step, done.size) == (2, out.stat().st_size)
    assert done.tuned == info_of(codes)["saved"]["weights"]


def test_scales_and_minima_in_the_blocks_stay_as_they_are(codes, tmp_path):
    exported(codes, tmp_path / "tuned.gguf")

    sizes = {"Q4_1": (20, 4), "Q8_0": (34, 2)}  # bytes of a block, of which before the codes
    before, after = (
        tensors_in(file) for file in (codes.parent / "base.gguf", tmp_path / "tuned.gguf")
    )
    for name in MATRICES - {"blk.0.ffn_up.weight"}:
        size, first = sizes[before[name].tensor_type.name]
        one, other = (there[name].data.reshape(-1, size) for there in (before, after))
        assert np.array_equal(one[:, :first], other[:, :first])
        assert not np.array_equal(one[:, first:], other[:, first:])


@pytest.mark.parametrize("at", ["2", "1", "0"])
def test_loaded_again_it_has_the_very_codes_of_the_step(at, codes, tmp_path):
    done = exported(codes, tmp_path / "tuned.gguf", at=at)

    again = load_model(str(tmp_path / "tuned.gguf"), weights="codes", dtype="float32").model
    made = rebuild(find_source(str(codes)), at, Notes())
    assert identity(again) == identity(made.base.loaded.model)
    assert logits_of(again).equal(logits_of(made.base.loaded.model))
    assert done.tuned == made.weights
    if at == "0":
        base = tensors_in(codes.parent / "base.gguf")
        for name, one in tensors_in(tmp_path / "tuned.gguf").items():
            assert np.array_equal(one.data, base[name].data)


def test_what_was_written_can_be_tuned_and_written_again(codes, tmp_path):
    exported(codes, tmp_path / "once.gguf")
    again = tuned(tmp_path, tmp_path / "once.gguf")

    done = exported(again, tmp_path / "twice.gguf")

    keys = {key: metadata_in(tmp_path / "twice.gguf")[key] for key in KEYS}
    assert keys["esft.base"] == find_source(str(again)).record.header["base"]
    assert keys.items() != {key: metadata_in(tmp_path / "once.gguf")[key] for key in KEYS}.items()
    assert done.conversion is None


def test_a_vector_that_was_tuned_beside_the_codes_is_written_too(tmp_path):
    norm = "model.layers.1.input_layernorm.weight"
    file = write_gguf(tmp_path / "base.gguf", tiny_llama(), kind=GGMLQuantizationType.Q8_0)
    run = tuned(tmp_path, file, include=("*.up_proj.weight", norm))

    done = exported(run, tmp_path / "tuned.gguf")

    assert done.conversion is None
    before, after = tensors_in(file), tensors_in(tmp_path / "tuned.gguf")
    same = {name for name, one in before.items() if np.array_equal(one.data, after[name].data)}
    assert before.keys() - same == {
        *(f"blk.{layer}.ffn_up.weight" for layer in (0, 1)),
        "blk.1.attn_norm.weight",
    }


def test_a_journal_alone_writes_the_same_file(codes, tmp_path):
    source, journal = find_source(str(codes)), tmp_path / "t.jsonl"
    export_journal(source, "last", journal, Notes(), RebuildOptions())
    exported(codes, tmp_path / "of-run.gguf")

    done = exported(journal, tmp_path / "of-journal.gguf")

    assert done.recorded
    of_run, of_journal = (tensors_in(tmp_path / f"of-{name}.gguf") for name in ("run", "journal"))
    assert all(np.array_equal(one.data, of_journal[name].data) for name, one in of_run.items())


def test_floats_are_written_as_the_type_asked_for_and_compared(floats, tmp_path):
    base, made = floats.parent / "base.gguf", rebuild(find_source(str(floats)), "last", Notes())
    model = made.base.loaded.model
    sizes = {}
    for kind, number, near in (("F16", 1, 1e-3), ("BF16", 32, 8e-3), ("Q8_0", 7, 8e-3)):
        out = tmp_path / f"{kind}.gguf"

        done = exported(floats, out, kind=None if kind == "F16" else kind)

        assert done.type == kind
        there = tensors_in(out)
        assert [*there] == [*tensors_in(base)]
        stored = {name: one.tensor_type.name for name, one in there.items()}
        vectors = {name for name, one in there.items() if len(one.shape) == 1}
        assert {stored[name] for name in vectors} == {"F32"}
        assert {stored[name] for name in there.keys() - vectors} == {kind}
        assert metadata_in(out)["general.file_type"] == number
        assert all(added(base, out).values())
        assert (done.conversion is None) == (done.prompts == 0)
        assert done.prompts > 0
        assert 0 < done.conversion.largest_difference < 0.5
        again = load_model(str(out), dtype="float32").model
        for name, one in again.named_parameters():
            largest = float(model.get_parameter(name).abs().max())
            apart = (one - model.get_parameter(name)).abs().max()
            assert apart <= near * largest, name
        sizes[kind] = done.size
    assert sizes["F16"] == pytest.approx(sizes["BF16"], abs=100)
    assert sizes["Q8_0"] < 0.8 * sizes["F16"]


def test_a_run_in_bfloat16_comes_back_bit_for_bit(tmp_path):
    file = write_gguf(tmp_path / "base.gguf", tiny_qwen2(tied=False))
    run = tuned(tmp_path, file, "float", "bfloat16")

    done = exported(run, tmp_path / "tuned.gguf")

    assert (done.type, done.conversion, done.prompts) == ("BF16", None, 0)
    again = load_model(str(tmp_path / "tuned.gguf"), dtype="bfloat16").model
    assert identity(again) == done.tuned == info_of(run)["saved"]["weights"]


def test_rows_that_fill_no_block_are_written_as_f16(tmp_path):
    # 48 columns are one and a half blocks of Q8_0.
    file = write_gguf(tmp_path / "base.gguf", tiny_llama(intermediate_size=48))
    run = tuned(tmp_path, file, "float")

    done = exported(run, tmp_path / "tuned.gguf", kind="Q8_0")

    stored = {
        name: one.tensor_type.name for name, one in tensors_in(tmp_path / "tuned.gguf").items()
    }
    assert stored["blk.0.ffn_down.weight"] == "F16"
    assert stored["blk.0.ffn_up.weight"] == done.type == "Q8_0"


def test_codes_made_here_are_in_no_gguf_file_and_refused(tmp_path):
    file = write_gguf(tmp_path / "base.gguf", tiny_llama())
    run = tuned(tmp_path, file, "int8")

    with pytest.raises(RunError, match=r"tuned int8, codes that no \.gguf file has") as caught:
        exported(run, tmp_path / "tuned.gguf")

    assert "write a folder" in caught.value.hint
    assert not (tmp_path / "tuned.gguf").exists()


def test_a_base_that_is_no_gguf_file_is_refused(tmp_path):
    recipe = a_recipe(tmp_path, steps=1, population=2)
    run_tuning(recipe, Notes(), never)

    with pytest.raises(RunError, match=r"base, expected a \.gguf file: what is written takes"):
        exported(tmp_path / "run", tmp_path / "tuned.gguf")

    assert not (tmp_path / "tuned.gguf").exists()


class WhenReadAgain(Notes):
    """Lets `change` edit the file once it is written, before it is read again."""

    def __init__(self, folder, change):
        super().__init__()
        self._folder, self._change = folder, change

    def phase(self, text):
        super().phase(text)
        if text.startswith("reading it again"):
            (part,) = (path for path in self._folder.iterdir() if path.suffix == ".gguf")
            self._change(part)


def flip_a_code(path):
    one = tensors_in(path)["blk.0.attn_v.weight"]
    data = bytearray(path.read_bytes())
    data[int(one.data_offset) + 10] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def stop(path):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (flip_a_code, RunError, "does not hold the tuned codes when it is read again"),
        (cut, EsftError, "damaged or cut short"),
        (stop, KeyboardInterrupt, None),
    ],
)
def test_a_file_that_is_not_what_was_tuned_is_not_left_there(change, error, says, codes, tmp_path):
    with pytest.raises(error, match=says):
        exported(codes, tmp_path / "tuned.gguf", watcher=WhenReadAgain(tmp_path, change))

    assert list(tmp_path.iterdir()) == []


# The command


def test_the_command_says_what_was_written(codes, tmp_path):
    done = esft("export", codes, "--out", tmp_path / "tuned.gguf", width=300)

    assert done.exit_code == 0, done.stderr
    assert f"step 2 of {codes}/journal.jsonl, the weights that the run recorded" in done.stdout
    assert "compared read again, it has the very codes, scales and floats of the" in done.stdout
    assert f"weights  sha256 {info_of(codes)['saved']['weights']}" in done.stdout
    assert f"model    {tmp_path / 'tuned.gguf'}, " in done.stdout
    assert " MB of type codes; its base " in done.stdout


def test_the_command_tells_a_conversion_as_json_and_in_words(floats, tmp_path):
    json_done = esft("export", floats, "--out", tmp_path / "a.GGUF", "--type", "Q8_0", "--json")
    done = esft("export", floats, "--out", tmp_path / "b.gguf", "--type", "Q8_0", width=300)

    assert json_done.exit_code == done.exit_code == 0, json_done.stderr + done.stderr
    told = json.loads(json_done.stdout)
    assert (told["model"], told["type"], told["step"]) == (str(tmp_path / "a.GGUF"), "Q8_0", 2)
    assert told["size"] == (tmp_path / "a.GGUF").stat().st_size
    largest = told["conversion"]["largest_difference"]
    assert largest > 0
    assert f"compared of {told['prompts']} prompts " in done.stdout
    assert f"{largest:.4g}" in done.stdout


@pytest.mark.parametrize(
    ("out", "arguments", "said", "code"),
    [
        ("t.gguf", ["--dtype", "bfloat16"], "--dtype is for another --out than one that ends", 2),
        ("t.gguf", ["--push", "a/b"], "--push is for another --out than one that ends in", 2),
        ("t.gguf", ["--journal"], "--journal is for another --out than one that ends in", 2),
        ("t", ["--type", "F16"], "--type is of a .gguf file: end --out in .gguf", 2),
        ("t.gguf", ["--type", "Q4_0"], "'Q4_0' is not one of", 2),
        ("t.gguf", ["--type", "F16"], "--type is F16, expected none: the run tuned the codes", 1),
        ("t.gguf", ["--at", "9"], "--at is '9', expected best, last or a step from 0 to 2", 1),
    ],
)
def test_what_cannot_be_written_is_refused(out, arguments, said, code, codes, tmp_path):
    done = esft("export", codes, "--out", tmp_path / out, *arguments, width=300)

    assert done.exit_code == code
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_not_overwritten(codes, tmp_path):
    (tmp_path / "t.gguf").write_text("mine")

    done = esft("export", codes, "--out", tmp_path / "t.gguf", width=300)

    assert done.exit_code == 1
    assert "exists, expected" in done.stderr
    assert (tmp_path / "t.gguf").read_text() == "mine"


def test_a_base_file_that_is_gone_is_named(codes, tmp_path):
    copied = shutil.copytree(codes.parent, tmp_path / "moved")
    (copied / "base.gguf").rename(copied / "other.gguf")
    (codes.parent / "base.gguf").rename(codes.parent / "hidden.gguf")
    try:
        refused = esft("export", copied / "run", "--out", tmp_path / "t.gguf", width=300)
        named = ("--model", copied / "other.gguf")
        done = esft("export", copied / "run", "--out", tmp_path / "t.gguf", *named, width=300)
    finally:
        (codes.parent / "hidden.gguf").rename(codes.parent / "base.gguf")

    assert refused.exit_code == 1
    assert "base.gguf: no such file" in refused.stderr
    assert done.exit_code == 0, done.stderr
    assert coded_of(load_model(str(tmp_path / "t.gguf"), weights="codes").model)

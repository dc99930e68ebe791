"""A saved model: the same model, whole or not there at all."""

import json

import gguf
import pytest
import torch
from tiny_models import (
    CHAT_TEMPLATE,
    logits_of,
    same_weights,
    tiny_llama,
    tiny_qwen2,
    tiny_tokenizer,
    write_gguf,
    write_model,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from esft.errors import RunError
from esft.models.load import load_model
from esft.models.save import save_model

TEXT = "Héllo, the cab!<|im_end|>\n"
Q8_0 = gguf.GGMLQuantizationType.Q8_0


@pytest.mark.parametrize(
    ("make", "tied", "dtype"),
    [(tiny_llama, True, torch.bfloat16), (tiny_qwen2, False, torch.float32)],
)
def test_a_saved_model_has_the_same_bits_config_tokenizer_and_chat_template(
    make, tied, dtype, tmp_path
):
    folder = write_model(tmp_path / "m", make(tied=tied, dtype=dtype))
    loaded = load_model(str(folder))
    for parameter in loaded.model.parameters():
        parameter.mul_(1.5)

    save_model(loaded, tmp_path / "runs" / "one" / "model")

    saved = tmp_path / "runs" / "one" / "model"
    again = AutoModelForCausalLM.from_pretrained(saved)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert same_weights(again, loaded.model)
    assert not same_weights(again, make(tied=tied, dtype=dtype))
    assert again.config.dtype == dtype
    assert {path.name for path in saved.iterdir()} == {path.name for path in folder.iterdir()}
    assert tokenizer(TEXT).input_ids == loaded.tokenizer(TEXT).input_ids
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_a_model_from_a_gguf_file_is_saved_as_a_plain_one(tmp_path):
    loaded = load_model(str(write_gguf(tmp_path / "t.gguf", kind=Q8_0)), dtype="bfloat16")

    save_model(loaded, tmp_path / "saved")

    again = load_model(str(tmp_path / "saved"))
    assert same_weights(again.model, loaded.model)
    assert logits_of(again.model).equal(logits_of(loaded.model))
    assert not hasattr(again.model.config, "quantization_config")
    assert again.tokenizer(TEXT).input_ids == loaded.tokenizer(TEXT).input_ids
    assert again.tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize("write", [write_model, write_gguf])
def test_nothing_saved_names_a_path_of_this_machine(write, tmp_path):
    loaded = load_model(str(write(tmp_path / "t.gguf")))

    save_model(loaded, tmp_path / "saved")

    texts = [path for path in (tmp_path / "saved").iterdir() if path.suffix in (".json", ".jinja")]
    assert len(texts) >= 4
    for path in texts:
        assert str(tmp_path.parent) not in path.read_text()
        assert "local_files_only" not in path.read_text()


def test_a_pad_token_that_was_lent_is_not_saved(tmp_path):
    folder = write_model(tmp_path / "m", tokenizer=tiny_tokenizer(pad=False))
    loaded = load_model(str(folder))

    save_model(loaded, tmp_path / "saved")

    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token is None
    assert loaded.tokenizer.pad_token == "<|im_end|>"


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [2, 1]},
        {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.1, "eos_token_id": 2},
    ],
)
def test_the_generation_config_of_the_checkpoint_is_kept_whatever_it_says(
    settings, folder, tmp_path
):
    (folder / "generation_config.json").write_text(json.dumps(settings))
    loaded = load_model(str(folder))
    loaded.model.generation_config.max_new_tokens = 7

    save_model(loaded, tmp_path / "saved")

    saved = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert settings.items() <= saved.items()
    assert saved["max_new_tokens"] == 7
    assert loaded.model.generation_config.max_new_tokens == 7


def test_a_folder_with_something_in_it_is_refused_and_left_alone_unless_it_may_be_replaced(
    folder, tmp_path
):
    loaded = load_model(str(folder))
    (folder / "mine").write_text("something")

    with pytest.raises(RunError, match="exists, expected a new or an empty folder"):
        save_model(loaded, folder)

    assert (folder / "mine").read_text() == "something"
    save_model(loaded, folder, replace=True)
    assert not (folder / "mine").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_an_interrupted_save_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    loaded = load_model(str(folder))
    generation = loaded.model.generation_config

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(loaded.model), "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_model(loaded, tmp_path / "saved")

    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert loaded.model.generation_config is generation

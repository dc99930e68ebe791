"""Loading a model: what comes back and what is said of it."""

from logging import StreamHandler

import gguf
import pytest
import torch
from tiny_models import (
    CHAT_TEMPLATE,
    change_weights,
    same_weights,
    tiny_llama,
    tiny_qwen2,
    tiny_tokenizer,
    write_gguf,
    write_model,
)
from transformers.utils import logging

from esft.models import load as models
from esft.models.load import load_model
from esft.models.save import save_model

TEXT = "Héllo, the cab!<|im_end|>\n"


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny Llama with tied embeddings in float32, and its chat tokenizer."""
    return write_model(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("make", "tied", "dtype"),
    [
        (tiny_llama, True, torch.float32),
        (tiny_qwen2, False, torch.float16),
        (tiny_qwen2, True, torch.bfloat16),
    ],
)
def test_a_folder_gives_its_weights_in_their_own_dtype(make, tied, dtype, tmp_path):
    model = make(tied=tied, dtype=dtype)
    folder = write_model(tmp_path / "m", model)

    loaded = load_model(str(folder))

    assert same_weights(loaded.model, model)
    assert loaded.dtype == dtype
    assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) == tied


def test_a_loaded_model_is_ready_to_be_tuned(folder):
    loaded = load_model(str(folder), device="cpu")

    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.device == torch.device("cpu")
    assert (loaded.id, loaded.source) == (str(folder), str(folder))
    assert loaded.notes == ()
    assert not loaded.borrowed_pad


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_a_named_dtype_replaces_the_checkpoints(name, tmp_path):
    folder = write_model(tmp_path / "m", tiny_llama(dtype=torch.bfloat16))

    loaded = load_model(str(folder), dtype=name)

    assert loaded.dtype == getattr(torch, name)
    assert {p.dtype for p in loaded.model.parameters()} == {loaded.dtype}


def test_the_tokenizer_comes_with_its_chat_template(folder):
    loaded = load_model(str(folder))

    assert loaded.tokenizer(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE


def test_a_sharded_checkpoint_loads(tmp_path):
    model = tiny_llama(tied=False)
    folder = write_model(tmp_path / "m", model)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="40kB")
    assert len(list(folder.glob("*.safetensors"))) > 1

    assert same_weights(load_model(str(folder)).model, model)


def test_nothing_is_printed_and_the_settings_of_the_library_are_as_before(
    folder, capfd, tmp_path, monkeypatch
):
    file = write_gguf(tmp_path / "t.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    said = []
    handler = StreamHandler()
    monkeypatch.setattr(handler, "emit", said.append)
    logging.add_handler(handler)
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    capfd.readouterr()
    try:
        save_model(load_model(str(folder)), tmp_path / "saved")
        load_model(str(file))

        assert (said, capfd.readouterr()) == ([], ("", ""))
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()
        logging.remove_handler(handler)


def test_a_missing_chat_template_is_said(tmp_path):
    folder = write_model(tmp_path / "m", tokenizer=tiny_tokenizer(chat_template=False))

    assert load_model(str(folder)).notes == (
        "the tokenizer has no chat template: prompts go in plain",
    )


@pytest.mark.parametrize(("eos", "pad"), [(True, "<|im_end|>"), (False, "<|endoftext|>")])
def test_without_a_pad_token_eos_pads_or_else_token_0(eos, pad, tmp_path):
    folder = write_model(tmp_path / "m", tokenizer=tiny_tokenizer(pad=False, eos=eos))

    loaded = load_model(str(folder))

    assert loaded.tokenizer.pad_token == pad
    assert loaded.notes == (f"the tokenizer has no pad token: {pad} pads, always masked",)
    assert loaded.tokenizer(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids


def test_tensors_that_the_model_does_not_use_are_said(folder):
    extra = {"model.a": torch.ones(2), "model.b": torch.ones(2)}
    change_weights(folder, lambda weights: weights.update(extra))

    assert load_model(str(folder)).notes == (
        "the model does not use all tensors of its checkpoint: model.a and 1 more",
    )


def test_bfloat16_on_a_cpu_that_emulates_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "computes_bfloat16", lambda device: False)
    folder = write_model(tmp_path / "m", tiny_llama(dtype=torch.bfloat16))

    assert "--dtype float32 is faster" in load_model(str(folder), device="cpu").notes[0]
    assert load_model(str(folder), device="cpu", dtype="bfloat16").notes == ()

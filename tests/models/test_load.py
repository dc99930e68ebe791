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

from esft.models.load import load_model
from esft.models.save import save_model

TEXT = "Héllo, the cab!<|im_end|>\n"


@pytest.mark.parametrize(
    ("make", "tied", "dtype", "shard"),
    [
        (tiny_llama, True, torch.float32, "40kB"),
        (tiny_qwen2, False, torch.float16, "40kB"),
        (tiny_qwen2, True, torch.bfloat16, "5GB"),
    ],
)
def test_a_folder_gives_its_weights_in_their_own_dtype_or_the_named_one(
    make, tied, dtype, shard, tmp_path
):
    model = make(tied=tied, dtype=dtype)
    folder = write_model(tmp_path / "m", model, max_shard_size=shard)

    loaded = load_model(str(folder))
    named = load_model(str(folder), dtype="float32")

    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard == "40kB")
    assert same_weights(loaded.model, model)
    assert loaded.dtype == dtype
    assert (loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight) == tied
    assert same_weights(named.model, model.float())
    assert named.dtype == torch.float32


def test_a_loaded_model_is_ready_to_be_tuned(folder):
    loaded = load_model(str(folder), device="cpu")

    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.device == torch.device("cpu")
    assert (loaded.id, loaded.source) == (str(folder), str(folder))
    assert (loaded.notes, loaded.borrowed_pad) == ((), False)
    assert loaded.tokenizer(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids
    assert loaded.tokenizer.chat_template == CHAT_TEMPLATE


def test_nothing_is_printed_and_the_settings_of_the_library_are_as_before(
    folder, capfd, tmp_path, monkeypatch
):
    file = write_gguf(tmp_path / "t.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    said = []
    handler = StreamHandler()
    monkeypatch.setattr(handler, "emit", said.append)
    logging.add_handler(handler)
    logging.set_verbosity_info()
    capfd.readouterr()
    try:
        save_model(load_model(str(folder)), tmp_path / "saved")
        load_model(str(file))

        assert (said, capfd.readouterr()) == ([], ("", ""))
        assert logging.get_verbosity() == logging.INFO
    finally:
        logging.set_verbosity_warning()
        logging.remove_handler(handler)


@pytest.mark.parametrize(
    ("tokenizer", "extra", "note"),
    [
        ({"chat_template": False}, {}, "the tokenizer has no chat template: prompts go in plain"),
        ({"pad": False}, {}, "the tokenizer has no pad token: <|im_end|> pads, always masked"),
        (
            {"pad": False, "eos": False},
            {},
            "the tokenizer has no pad token: <|endoftext|> pads, always masked",
        ),
        (
            {},
            {"model.a": torch.ones(2), "model.b": torch.ones(2)},
            "the model does not use all tensors of its checkpoint: model.a and 1 more",
        ),
    ],
)
def test_what_a_checkpoint_lacks_or_has_too_much_is_said(tokenizer, extra, note, tmp_path):
    folder = write_model(tmp_path / "m", tokenizer=tiny_tokenizer(**tokenizer))
    change_weights(folder, lambda weights: weights.update(extra))

    loaded = load_model(str(folder))

    assert loaded.notes == (note,)
    assert loaded.borrowed_pad == ("pad" in tokenizer)
    assert loaded.tokenizer.pad_token in note or not loaded.borrowed_pad
    assert loaded.tokenizer(TEXT).input_ids == tiny_tokenizer()(TEXT).input_ids

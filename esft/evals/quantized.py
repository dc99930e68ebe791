"""A model as it is loaded in 4 or 8 bits, by bitsandbytes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.files import writing
from esft.models.calling import quiet
from esft.models.save import write_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from esft.models.load import LoadedModel


def quantized_copy(loaded: LoadedModel, load: str) -> PreTrainedModel:
    """Return a copy of a model with its linear layers quantized, on the same device.

    It is written to a temporary folder and loaded from there, as users of the checkpoint would.

    Args:
        loaded: the model as it is.
        load: "nf4" (4 bits: quantiles of a normal distribution, in blocks) or "int8" (a scale a
            row: LLM.int8).

    Raises:
        ModelError: if bitsandbytes cannot do that on this device.
        RunError: if the temporary folder, of the size of the model, cannot be written.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    settings = {
        "nf4": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": loaded.dtype,
        },
        "int8": {"load_in_8bit": True},
    }
    with tempfile.TemporaryDirectory(prefix="esft-quantized-") as folder:
        with writing(Path(folder)):
            write_model(loaded, Path(folder))
        try:
            with quiet(bars_too=True):
                model = AutoModelForCausalLM.from_pretrained(
                    folder,
                    quantization_config=BitsAndBytesConfig(**settings[load]),
                    device_map={"": loaded.device},
                    dtype=loaded.dtype,
                )
        except (ImportError, RuntimeError, ValueError, NotImplementedError) as error:
            raise ModelError(
                f"the model cannot be loaded as {load} on {loaded.device}: {error}",
                hint="bitsandbytes supports cuda, and the CPU from version 0.46 on",
            ) from error
    return model.eval().requires_grad_(False)

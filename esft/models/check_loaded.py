"""Whether a model, once loaded, is whole, of floating point and finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esft.errors import ModelError
from esft.models.check import quantized
from esft.models.device import DTYPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_loaded(model: PreTrainedModel, info: dict, name: str) -> None:
    """Check that every weight of `model` came from its checkpoint and can be tuned.

    Args:
        model: as from_pretrained left it.
        info: its output_loading_info.
        name: of the checkpoint, for messages.

    Raises:
        ModelError: if a weight is missing, of another shape, no float, NaN or infinite.
    """
    _check_whole(info, name)
    _check_floats(model, name)
    _check_finite(model, name)


def _check_whole(info: dict, name: str) -> None:
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{name} lacks {missing[0]}{and_more(missing)}, which its config.json calls for; "
            "transformers would fill in random numbers",
            hint="take the whole checkpoint of a causal language model: all parts of a split one, "
            "the base merged in where this is an adapter",
        )
    if info["mismatched_keys"]:
        key, found, expected = sorted(info["mismatched_keys"])[0]
        raise ModelError(
            f"{name}: {key} has shape {tuple(found)}, config.json expects {tuple(expected)}",
            hint="config.json and the weights belong to different models: download both again",
        )


def _check_floats(model: PreTrainedModel, name: str) -> None:
    for key, parameter in model.named_parameters():
        kind = str(parameter.dtype).removeprefix("torch.")
        if not parameter.is_floating_point() or parameter.itemsize < 2:
            raise quantized(name, f"{key} is {kind}")
        if kind not in DTYPES:
            raise ModelError(
                f"{name}: {key} is {kind}, expected one of {', '.join(DTYPES)}",
                hint="name a dtype: --dtype float32",
            )


def _check_finite(model: PreTrainedModel, name: str) -> None:
    import torch

    bad = {}
    for key, parameter in model.named_parameters():
        if parameter.numel() == 0:
            continue
        # One pass that allocates nothing; NaN comes out as NaN.
        ends = torch.stack(torch.aminmax(parameter.detach()))
        if not ends.isfinite().all():
            bad[key] = "NaN" if ends.isnan().any() else "infinite values"
    if bad:
        key, what = next(iter(bad.items()))
        raise ModelError(
            f"{name}: {key} holds {what}{and_more(list(bad))}, expected finite numbers",
            hint="weights that do not fit float16 become infinite: try bfloat16 or float32"
            if model.dtype == torch.float16
            else "the checkpoint is damaged: download it again, or take another",
        )


def and_more(names: list[str]) -> str:
    """What follows the first of `names`, where there are more."""
    return f" and {len(names) - 1} more" if len(names) > 1 else ""

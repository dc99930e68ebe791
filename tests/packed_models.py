"""Checkpoints as GPTQ and bitsandbytes write them, made of a folder with floats."""

import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from tiny_models import change_config

GROUP = 16
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def write_packed(source, folder, config):
    """Write the model of the folder `source` to `folder`, its linear layers as `config` says."""
    shutil.copytree(source, folder)
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith("proj.weight")]:
        layer, weight = name.removesuffix(".weight"), tensors.pop(name)
        packed = _gptq(weight) if config["quant_method"] == "gptq" else _int8(weight)
        tensors |= {f"{layer}.{part}": value for part, value in packed.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    change_config(folder, quantization_config=config)
    return folder


def packed_values(folder):
    """Return the weights of each quantized layer of such a folder, by parameter, float32."""
    method = json.loads((folder / "config.json").read_text())["quantization_config"]["quant_method"]
    tensors = load_file(folder / "model.safetensors")
    if method == "bitsandbytes":
        return {
            f"{name.removesuffix('.SCB')}.weight": largest[:, None]
            / 127
            * tensors[f"{name.removesuffix('.SCB')}.weight"]
            for name, largest in tensors.items()
            if name.endswith(".SCB")
        }
    values = {}
    for layer in (key.removesuffix(".scales") for key in tensors if key.endswith(".scales")):
        codes = _nibbles(tensors[f"{layer}.qweight"].T)  # (outputs, inputs)
        zeros = _nibbles(tensors[f"{layer}.qzeros"]).T + 1  # (outputs, groups), kept less 1
        scales = tensors[f"{layer}.scales"].T.float()
        groups = torch.arange(codes.shape[1]) // GROUP
        values[f"{layer}.weight"] = scales[:, groups] * (codes - zeros[:, groups])
    return values


def _gptq(weight):
    rows, columns = weight.shape
    groups = weight.view(rows, -1, GROUP)
    low, high = groups.aminmax(dim=2)
    scale = ((high - low) / 15).half()
    zero = (-low / scale.float()).round().clamp(1, 15)
    codes = (groups / scale.float()[..., None] + zero[..., None]).round().clamp(0, 15)
    return {
        "qweight": _words(codes.view(rows, columns).long()).T.contiguous(),
        "qzeros": _words((zero - 1).T.contiguous().long()),
        "scales": scale.T.contiguous(),
        "g_idx": (torch.arange(columns) // GROUP).int(),
    }


def _int8(weight):
    largest = weight.abs().amax(1)
    return {"weight": (weight / largest[:, None] * 127).round().to(torch.int8), "SCB": largest}


def _words(codes):
    """Return codes below 16, (n, m), eight to an int32 along the columns, the first lowest."""
    places = torch.arange(8) * 4
    words = (codes.view(len(codes), -1, 8) << places).sum(2)
    return torch.where(words >= 2**31, words - 2**32, words).int()


def _nibbles(words):
    return (words.long()[..., None] >> torch.arange(8) * 4 & 15).flatten(1)

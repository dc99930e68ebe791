"""Whether a folder holds the model that was in memory: loaded again, in a new process."""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import esft
from esft.errors import EsftError, RunError
from esft.export.figures import Figures, figures
from esft.export.prompts import Prompt
from esft.models.load import LoadedModel, load_model

_ASKED, _KEPT, _FOUND = "asked.json", "logits.safetensors", "found.json"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The model in a folder against the one that was in memory."""

    same_weights: bool
    """Names, dtypes, shapes and bits of all parameters, as they were when they were written."""
    same_tokens: bool
    same_logits: bool
    """Bit for bit."""
    finite: bool
    """Whether all logits of the model in the folder are."""
    prompts: int
    positions: int
    """Positions of the prompts whose logits were compared."""
    logits: int
    largest_difference: float
    """Of a logit."""
    mean_kl: float
    """KL(tuned || exported) in nats, mean over the positions."""
    same_answers: int

    @property
    def exact(self) -> bool:
        """Whether nothing differs at all."""
        answers = self.same_answers == self.prompts
        return self.same_weights and self.same_tokens and self.same_logits and answers


def keep_reference(
    work: Path,
    reference: Figures,
    prompts: tuple[Prompt, ...],
    written: str,
    loaded: LoadedModel,
    trust_remote_code: bool,
) -> None:
    """Write to a folder what `check` compares with.

    Args:
        work: the folder.
        reference: of the model in memory.
        prompts: that they were made of.
        written: identity of the parameters that were written.
        loaded: the model in memory: its device is used again.
        trust_remote_code: run Python code that comes with the checkpoint.
    """
    device = loaded.device
    asked = {
        "prompts": [asdict(each) for each in prompts],
        "tokens": reference.tokens,
        "answers": reference.answers,
        "batch": reference.batch,
        "weights": written,
        "device": str(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "trust_remote_code": trust_remote_code,
    }
    save_file({"logits": reference.logits}, work / _KEPT)
    (work / _ASKED).write_text(json.dumps(asked), encoding="utf-8")


def check_anew(folder: Path, work: Path) -> Comparison:
    """Return what `check` finds in a new process, which has no network.

    Raises:
        RunError: if the model cannot be loaded there, or does not run.
    """
    home = str(Path(esft.__file__).parents[1])
    others = os.environ.get("PYTHONPATH")
    paths = home if not others else os.pathsep.join((home, others))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "esft.export.check", str(folder), str(work)],
        env=os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise RunError(
            f"the exported model cannot be compared, a new process fails with it: {last}",
            hint="if memory ran out there, name another --device; nothing was left half-written",
        )
    return Comparison(**json.loads((work / _FOUND).read_text(encoding="utf-8")))


def check(folder: Path, work: Path) -> Comparison:
    """Load the model of a folder and compare it with what `keep_reference` wrote to `work`.

    Raises:
        ModelError: if it cannot be loaded.
    """
    asked = json.loads((work / _ASKED).read_text(encoding="utf-8"))
    torch.set_num_threads(asked["threads"])
    loaded = load_model(
        str(folder), device=asked["device"], trust_remote_code=asked["trust_remote_code"]
    )
    found = figures(loaded, tuple(map(_read_prompt, asked["prompts"])), asked["batch"])
    reference = load_file(work / _KEPT)["logits"]
    same_tokens = [list(each) for each in found.tokens] == asked["tokens"]
    comparable = same_tokens and found.logits.shape == reference.shape
    largest, kl = _differences(reference, found.logits) if comparable else (math.nan, math.nan)
    same = [one == other for one, other in zip(found.answers, asked["answers"], strict=False)]
    return Comparison(
        same_weights=found.weights == asked["weights"],
        same_tokens=same_tokens,
        same_logits=comparable and _same_bits(reference, found.logits),
        finite=bool(found.logits.isfinite().all()),
        prompts=len(found.tokens),
        positions=len(found.logits),
        logits=found.logits.numel(),
        largest_difference=largest,
        mean_kl=kl,
        same_answers=sum(same),
    )


def _differences(tuned: Tensor, exported: Tensor) -> tuple[float, float]:
    """Return the largest difference of a logit and the mean KL(tuned || exported).

    In float64 and a few positions at a time: a vocabulary can have 150,000 tokens.
    """
    largest, total = 0.0, 0.0
    for ours, theirs in zip(tuned.split(16), exported.split(16), strict=True):
        if _same_bits(ours, theirs):
            continue
        ours, theirs = ours.double(), theirs.double()
        largest = max(largest, float((ours - theirs).abs().max()))
        p, q = ours.log_softmax(dim=-1), theirs.log_softmax(dim=-1)
        total += float((p.exp() * (p - q)).sum())
    return largest, total / len(tuned)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return one.view(torch.int32).equal(other.view(torch.int32))


def _read_prompt(record: dict) -> Prompt:
    return Prompt(**record | {"messages": tuple(record["messages"])})


def main() -> None:
    """Check the folder named first and leave what is found in the one named second."""
    folder, work = map(Path, sys.argv[1:])
    try:
        found = check(folder, work)
    except EsftError as error:
        sys.exit(" ".join(str(error).split()))
    (work / _FOUND).write_text(json.dumps(asdict(found)), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Snapshots of the drift: what a resumed or replayed run starts from instead of the base."""

import hashlib
import json
import re
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from esft.engine.drift_state import DriftState
from esft.errors import SnapshotError
from esft.files import whole_file

SNAPSHOT_FORMAT = 1
NEWEST = 2  # snapshots kept beside that of the best step
_NAME = re.compile(r"step-(\d+)\.safetensors")


class Snapshots:
    """The drift/ folder of a run: a safetensors file a snapshot, each with its own hash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> list[int]:
        """Return the steps that have a snapshot, the newest first."""
        files = (path for path in self._folder.glob("*") if path.is_file())  # a pipe would wait
        matches = (_NAME.fullmatch(path.name) for path in files)
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}.safetensors"

    def write(self, state: DriftState, checksum: str) -> None:
        """Write a snapshot, whole or not at all; `checksum` is that of the journal at its step."""
        path = self.path(state.steps)
        about = {
            "format": SNAPSHOT_FORMAT,
            "step": state.steps,
            "kind": state.kind,
            "sum_of_squares": state.sum_of_squares,
            "figures": state.figures,
            "journal": checksum,
        }
        if state.anchor_squares is not None:
            about["anchor_squares"] = state.anchor_squares
        about["sha256"] = _digest(about, state)
        with whole_file(path) as part:
            save_file(state.tensors, part, metadata={"esft": json.dumps(about)})

    def read(self, step: int, checksum: str) -> DriftState:
        """Return the state, mapped from its file; SnapshotError if it is damaged or another's."""
        path = self.path(step)
        try:
            with safe_open(path, framework="pt") as file:
                about = json.loads((file.metadata() or {})["esft"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if about["format"] != SNAPSHOT_FORMAT:
                raise SnapshotError(f"{path} has format {about['format']}, not {SNAPSHOT_FORMAT}")
            state = DriftState(
                steps=about["step"],
                kind=about["kind"],
                sum_of_squares=about["sum_of_squares"],
                figures=about["figures"],
                tensors=tensors,
                anchor_squares=about.get("anchor_squares"),
            )
            digest, journal = about.pop("sha256"), about["journal"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SnapshotError(f"{path} is damaged: {error}") from error
        if digest != _digest(about, state):
            raise SnapshotError(f"{path} is damaged: its content is not what was written")
        if journal != checksum:
            raise SnapshotError(f"{path} belongs to another journal")
        if state.steps != step:
            raise SnapshotError(f"{path} is of step {state.steps}")
        return state

    def prune(self, best: Collection[int | None]) -> None:
        """Remove all but the newest and those of the best steps."""
        for step in self.steps()[NEWEST:]:
            if step not in best:
                self.path(step).unlink(missing_ok=True)

    def drop_after(self, step: int) -> None:
        """Remove those of later steps."""
        for later in self.steps():
            if later > step:
                self.path(later).unlink(missing_ok=True)


def _digest(about: dict[str, object], state: DriftState) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(state.tensors.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.numpy())
    return digest.hexdigest()

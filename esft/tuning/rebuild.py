"""The model of any step of a run, from its journal and its base model."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from esft.engine.journal_read import JournalRecord, contributions, read_journal, replay
from esft.engine.members import net_coefficients
from esft.engine.noise import NOISE_VERSIONS
from esft.engine.replayed import KEPT_STEPS, REPLAY
from esft.engine.weights import Weights, identity, identity_as_saved
from esft.errors import AnchorError, JournalError, RunError, SnapshotError
from esft.models.device import FLOAT, choose_device
from esft.models.find import at_commit
from esft.models.load import LoadedModel, load_model
from esft.recipe.settings import Anchor, Model, Recipe
from esft.recipe.toml import load_recipe
from esft.runs.folder import RunFolder, open_run
from esft.runs.names import find_run
from esft.runs.records import best_step, scores
from esft.runs.snapshots import Snapshots
from esft.tuning.base import Base, open_base
from esft.tuning.memory import room_on
from esft.tuning.run_info import with_recorded_paths
from esft.tuning.watcher import Watcher

_SAMPLE = 1 << 23  # elements of noise that are timed to tell how long a replay takes


@dataclass(frozen=True, kw_only=True)
class RebuildOptions:
    """How a model is rebuilt."""

    model: str | None = None  # the base model; None takes that of the run
    device: str | None = None  # where to; None takes the run's, or the best there is
    from_base: bool = False  # make every step again, without snapshots


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a model is rebuilt from: a run folder, or a journal alone."""

    record: JournalRecord
    run: RunFolder | None

    @property
    def recipe(self) -> Recipe | None:
        """The run's recipe, its files where they were then; None for a journal alone."""
        if self.run is None:
            return None
        recipe = load_recipe(str(self.run.recipe_path), {})
        return with_recorded_paths(recipe, **vars(self.run.info.places))

    @property
    def ended(self) -> int:
        """The step whose model the run ended with: its last, or the peak that ended it."""
        peak = None if self.run is None else self.run.info.peak
        return self.record.last if peak is None else peak

    @property
    def best(self) -> int | None:
        """The step with the best holdout reward; None where nothing says it."""
        if self.run is None:
            return None if self.record.end is None else self.record.end.best
        best = best_step(scores(self.run.path))
        return None if best is None or best > self.record.last else best

    def weights_of(self, step: int) -> str | None:
        """Return the identity that the model of `step` was recorded to have, where it was."""
        if self.run is None:
            end = self.record.end
            return end.weights if end is not None and step == self.record.last else None
        saved = self.run.info.saved
        return saved.weights if saved is not None and saved.step == step else None


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A model brought to a step."""

    source: Source
    step: int
    base: Base  # its weights are at `step`
    weights: str  # their identity
    proven: bool  # whether the run recorded that identity too: if it did, they agree


def find_source(name: str | None) -> Source:
    """Return the run, or the file of a journal, that RUN means; EsftError if it is damaged, or the
    journal in a run folder is not that of the run."""
    if name is None or not Path(name).is_file():
        run = open_run(find_run(name))
        return Source(record=run.read_journal(), run=run)
    record = read_journal(Path(name))
    if record.torn:
        raise JournalError(
            f"{name} ends in the middle of a line, expected whole lines: it was cut short",
            hint="take another copy of it; in its run folder, esft resume makes the step again",
        )
    return Source(record=record, run=None)


def step_of(source: Source, at: str) -> int:
    """Return the step that "best", "last" or a number means; RunError if the run has none such."""
    last = source.record.last
    if at == "last":
        return source.ended
    if at == "best":
        if (best := source.best) is not None:
            return best
        raise RunError(
            f"{source.record.path} does not say which step is the best: there is no evaluation",
            hint=f"name a step, 0 to {last}, or last",
        )
    if not at.isascii() or not at.isdigit() or int(at) > last:
        raise RunError(
            f"--at is {at!r}, expected best, last or a step from 0 to {last}",
            hint="0 is the base model",
        )
    return int(at)


def rebuild(
    source: Source, at: str, watcher: Watcher, options: RebuildOptions | None = None
) -> Rebuilt:
    """Load the base model of a run and bring it to a step, bit for bit, without rollouts.

    `at` is "best", "last" or the number of a step.

    Raises:
        EsftError: if there is no such step, the base model is another one, or the weights do not
            come out as the run recorded them.
    """
    options = RebuildOptions() if options is None else options
    step = step_of(source, at)
    base = open_at_base(source, watcher, options)
    bring_to(base, source, step, watcher, from_base=options.from_base)
    weights, expected = identity_as_saved(base.loaded.model), source.weights_of(step)
    if expected is not None and weights != expected:
        raise RunError(
            f"step {step} of {source.record.path} rebuilds weights of sha256 {weights[:16]}..., "
            f"expected {expected[:16]}..., which the run recorded",
            hint="another version of torch or another device may round differently: take those in "
            "run.json; else the run is damaged",
        )
    return Rebuilt(
        source=source, step=step, base=base, weights=weights, proven=expected is not None
    )


def open_at_base(source: Source, watcher: Watcher, options: RebuildOptions) -> Base:
    """Load the base model of a run, at D = 0; see `rebuild`."""
    record, header = source.record, source.record.header
    if (noise := header["noise_version"]) not in NOISE_VERSIONS:
        raise JournalError(
            f"{record.path} was made with noise version {noise}, expected one of "
            f"{', '.join(map(str, NOISE_VERSIONS))}",
            hint="a newer esft may have it: pip install -U esft",
        )
    if record.torn:
        watcher.notice(f"the journal's last line was cut off: step {record.last} is last")
    recipe, kept = source.recipe, {key: header[key] for key in ("drift", "awd", "norm")}
    model = Model(id=header["model"]) if recipe is None else recipe.model
    if recipe is None and "tau" in header:
        kept |= {"move": "ema", "tau": header["tau"]}
    anchor = replace(Anchor() if recipe is None else recipe.anchor, **kept)
    model = model if options.model is None else replace(model, id=options.model)
    model = replace(model, id=at_commit(model.id, header["model"]))
    watcher.phase(f"loading {model.id}")
    device = model.device if options.device is None else options.device
    room = room_on(choose_device(device))
    loaded = load_model(
        model.id,
        dtype=header["dtype"],
        device=device,
        trust_remote_code=model.trust_remote_code,
        weights=header.get("weights", FLOAT),
    )
    _refuse_other_base(loaded, record)
    globs = [None if header[key] is None else tuple(header[key]) for key in ("include", "exclude")]
    return open_base(loaded, anchor, header["seed"], *globs, room, rank=header.get("rank"))


def _refuse_other_base(loaded: LoadedModel, record: JournalRecord) -> None:
    header, weights = record.header, identity(loaded.model)
    if weights != header["base"]:
        raise RunError(
            f"{loaded.id} in {header['dtype']} is another base model than that of "
            f"{record.path}: sha256 {weights[:16]}..., expected {header['base'][:16]}...",
            hint=f"the run was made with {header['model']}: name that as --model",
        )
    was = header.get("parts", loaded.parts)  # journals of before say nothing of them
    other = [name for name in (*was, *loaded.parts) if was.get(name) != loaded.parts.get(name)]
    if other:
        raise RunError(
            f"{loaded.id} has the weights of the base model of {record.path}, but another "
            f"{' and another '.join(dict.fromkeys(other))}, expected what the run was made with",
            hint="put back config.json, generation_config.json and the files of the tokenizer as "
            f"they were; the run was made with {header['model']}",
        )


def bring_to(
    base: Base,
    source: Source,
    step: int,
    watcher: Watcher,
    *,
    from_base: bool = False,
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Bring a base model's weights from an earlier step of a run, 0 at first, to `step`.

    `from_base` passes over the snapshots; `on_step` is called after every step that is made again,
    not those that a snapshot saves.
    """
    record, drift = source.record, base.drift
    if source.run is not None and not from_base:
        snapshots = Snapshots(source.run.path / "drift")
        for ahead in [ahead for ahead in snapshots.steps() if drift.steps < ahead <= step]:
            try:
                drift.load(snapshots.read(ahead, record.checksums[ahead]))
                break
            except (SnapshotError, AnchorError) as error:
                watcher.notice(f"{error}; an earlier state is taken")
    if step > drift.steps:
        made = (contributions(s, record.header) for s in record.steps[drift.steps : step])
        draws = sum(len(net_coefficients(*members)) for members in made)
        draws *= KEPT_STEPS + 1 if record.header["drift"] == REPLAY else 1
        watcher.rebuild(drift.steps, step, draws * seconds_a_noise(base.weights))

    def tell(made: int) -> None:
        on_step(made)
        watcher.progress("rebuilding step", made, step)

    replay(drift, record, step, tell)


def seconds_a_noise(weights: Weights) -> float:
    """Return about how long a step takes for one noise, drawn and added for every weight."""
    began, drawn = 0.0, 0
    for piece in weights.pieces():
        total = torch.zeros(piece.count, device=piece.flat.device)
        weights.kernels.accumulate(total, piece.name, piece.start, [(0, 0.5)], piece.factors)
        float(total[0])
        if not began:  # the first one warms up
            began = time.monotonic()
            continue
        drawn += piece.count
        if drawn >= _SAMPLE:
            break
    return (time.monotonic() - began) * weights.numel / max(1, drawn)

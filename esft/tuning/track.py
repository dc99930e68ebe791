"""Where else a run is shown: TensorBoard, Weights & Biases or Trackio, none of which it needs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO

from esft.errors import RunError
from esft.files import slug
from esft.runs.folder import RunFolder
from esft.runs.records import RecordedScore
from esft.runs.steps import StepMetrics
from esft.tuning.watcher import Watcher

Log = Callable[[int, Mapping[str, float]], None]
"""Shows figures of a step by name."""
PROJECT = "esft"


def require_tracker(name: str | None) -> None:
    """Raise RunError if what [run] track names is not installed."""
    if name is not None and find_spec(name) is None:
        raise RunError(
            f"[run] track is {name!r}, which is not installed, expected its package",
            hint=f"pip install {name}, or leave --track out: a run needs no tracker",
        )


@contextmanager
def tracked(name: str | None, run: RunFolder, watcher: Watcher) -> Iterator[None]:
    """Show what `run` records in the block also by the tracker `name`; None by none.

    A tracker that fails is told of, and no longer used: the run goes on.
    """
    if name is None:
        yield
        return
    log: Log | None = None
    tracker = OPEN[name](run)

    def ended(error: Exception) -> None:
        nonlocal log
        log = None
        reason = " ".join(str(error).split()) or type(error).__name__
        watcher.notice(f"{name} does not track this run any more, which goes on: {reason}")

    def follow(record: StepMetrics | RecordedScore) -> None:
        if log is not None:
            try:
                log(record.step, figures(record))
            except Exception as error:  # of a library that the run does not need
                ended(error)

    try:
        log = tracker.__enter__()
    except Exception as error:
        ended(error)
    run.followers.append(follow)
    try:
        yield
    finally:
        run.followers.remove(follow)
        if log is not None:
            try:
                tracker.__exit__(None, None, None)
            except Exception as error:
                ended(error)


def figures(record: StepMetrics | RecordedScore) -> dict[str, float]:
    """Return what a tracker shows of a step or an evaluation: by name, what is known."""
    if isinstance(record, RecordedScore):
        head = f"{record.role}/{record.task}"
        values = {f"{head}/accuracy": record.accuracy, f"{head}/reward": record.reward}
        values["anchor/model_kl"] = record.kl
    else:
        values = {
            "reward/mean": record.reward_mean,
            "reward/best": record.reward_best,
            "correct": record.correct,
            "anchor/kl": record.kl,
            "anchor/penalty": record.penalty,
            "sigma": record.sigma,
            "alpha": record.alpha,
            "drift/norm": record.drift,
            "drift/forecast": record.forecast,
            "drift/anchor": record.anchor,
            "seconds/step": record.seconds,
            "memory/peak": record.peak_memory,
        }
        times = {} if record.times is None else record.times.parts
        values |= {f"seconds/{part}": seconds for part, seconds in times.items()}
        signal = {} if record.signal is None else vars(record.signal)
        values |= {f"signal/{part}": value for part, value in signal.items()}
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _tensorboard(run: RunFolder) -> Iterator[Log]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run.path / "tensorboard")) as writer:

        def log(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield log


@contextmanager
def _wandb(run: RunFolder) -> Iterator[Log]:
    import wandb

    how = {"project": PROJECT, "name": run.path.name, "dir": str(run.path), "resume": "allow"}
    quiet = wandb.Settings(silent=True, console="off")
    # The same one where the run goes on.
    how["id"] = slug(f"{run.path.name}-{run.info.started}")
    with wandb.init(**how, config=run.info.settings, settings=quiet) as shown:
        yield lambda step, values: shown.log(dict(values), step=step)


@contextmanager
def _trackio(run: RunFolder) -> Iterator[Log]:
    import trackio

    how = {"project": PROJECT, "name": slug(f"{run.path.name}-{run.info.started}")}
    with redirect_stdout(StringIO()):  # which is a run's own, and JSON alone with --json
        trackio.init(**how, config=run.info.settings, resume="allow")
    try:
        yield lambda step, values: trackio.log(dict(values), step=step)
    finally:
        with redirect_stdout(StringIO()):
            trackio.finish()


OPEN: dict[str, Callable[[RunFolder], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
}
"""How each tracker that [run] track can name is opened."""

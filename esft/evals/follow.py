"""What a rank of a torchrun that does not lead does of an evaluation: its share of rows and KL."""

from dataclasses import replace
from typing import Any

import torch

from esft.evals.measure import Measurer
from esft.evals.run import EvalRequest, OpenEval, open_eval
from esft.rollout.batches import Batches
from esft.rollout.typed import to_json
from esft.tuning.follow import Silent, device_of_rank, scored, serve
from esft.tuning.ranks import Place, Ranks
from esft.tuning.run_info import software
from esft.tuning.tasks import EvalTask


def follow_eval(ranks: Ranks) -> None:
    """Do what the leader asks until it ends; EsftError where something cannot be done here."""
    follower = _Follower(ranks.place)
    serve(ranks, follower.facts, follower.open, follower.score, follower.kl)


class _Follower:
    """Has a method for every message of the leader; what it returns is the reply."""

    def __init__(self, where: Place) -> None:
        self._place = where
        self._asked: EvalRequest
        self._opened: OpenEval
        self._measurer: Measurer

    def facts(self) -> dict[str, str]:
        """Say which software this is."""
        return software()

    def open(self, request: dict[str, Any], threads: int) -> dict[str, str]:
        """Load what is to be measured; say what it is."""
        torch.set_num_threads(threads)
        request |= {name: tuple(request[name]) for name in ("priors", "models")}
        asked = EvalRequest(**request)
        device = device_of_rank(asked.device, self._place)
        self._asked = asked
        self._opened = open_eval(replace(asked, device=device), Silent())
        self._measurer = Measurer(self._opened.steps, Silent())
        return self._opened.facts()

    def score(
        self, step: int, name: str, batch: int, sampled: bool, spans: list[list[tuple[int, int]]]
    ) -> dict[str, Any]:
        """Score this rank's parts of the rows of a task on the model of a step."""
        task = self._task(name)
        if sampled:
            task = self._asked.sampling(task)
        model = self._opened.steps.at(step)
        rollout = replace(task.rollout, model=model, batches=Batches(batch))
        return scored(replace(task, rollout=rollout), spans[self._place.rank])

    def kl(self, step: int, names: list[list[str]], prompts: int, tokens: int) -> list[Any]:
        """Measure the KL divergence of this rank's tasks."""
        tasks = map(self._task, names[self._place.rank])
        return to_json(self._measurer.kls(step, list(tasks), prompts, tokens))

    def _task(self, name: str) -> EvalTask:
        return next(one.task for one in self._opened.tasks if one.task.name == name)

"""Rows from a dataset of the Hugging Face hub, each with where it came from."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from esft.errors import TaskError
from esft.tasks.task import HubSource


class HubRows:
    """The splits of one hub dataset, downloaded when first asked for, or read from the cache."""

    fix = "name a folder with other rows as --data-dir"

    def __init__(self, source: HubSource, file: str) -> None:
        self.source = source
        self.file = file

    def where(self, split: str) -> str:
        """Dataset and split, for messages."""
        return f"{self.source}, split {split}"

    def has(self, split: str) -> bool:
        """Whether the dataset has this split."""
        return split in self._splits

    def rows(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Place and columns of each row, numbered from 1.

        Raises:
            TaskError: the dataset cannot be had, or has no such split or no rows in it.
        """
        if not self.has(split):
            there = ", ".join(self._splits)
            raise TaskError(
                f"{self.source} has no split {split}, it has: {there}", hint=self._offline_hint()
            )
        if len(self._splits[split]) == 0:
            raise TaskError(f"{self.where(split)} has no rows", hint=self._offline_hint())
        for number, row in enumerate(self._splits[split], start=1):
            yield f"{self.where(split)}, row {number}", row

    @cached_property
    def _splits(self) -> dict[str, Any]:
        import datasets

        try:
            return datasets.load_dataset(
                self.source.id,
                self.source.config,
                trust_remote_code=False,  # datasets before 4.0 would ask; later ones never run code
            )
        except Exception as error:
            explained = self._explain(error)
            if explained is None:
                raise
            raise explained from error

    def _explain(self, error: Exception) -> TaskError | None:
        """What `error` of load_dataset means for the user; None for what they cannot fix.

        Read from the source of datasets 5.2 and huggingface_hub 1.x: an unknown, private or gated
        dataset is a DatasetNotFoundError, no network and HF_HUB_OFFLINE a ConnectionError, other
        answers of the hub a FileNotFoundError or an HTTPError, an unknown config (also of a cached
        dataset) a ValueError, a dataset script a RuntimeError.
        """
        from datasets.exceptions import DatasetNotFoundError, DatasetsError

        # The errors module re-exports the base error of its HTTP library, which has changed twice.
        from huggingface_hub.errors import HTTPError

        if isinstance(error, DatasetNotFoundError) and "gated" in str(error):
            return TaskError(
                f"dataset {self.source} is gated on the hub",
                hint=f"accept its terms at https://huggingface.co/datasets/{self.source.id} and "
                f"log in with `hf auth login`; {self._offline_hint()}",
            )
        if isinstance(error, DatasetNotFoundError):
            return self._unusable("is not on the hub, or you have no access to it", None)
        if isinstance(error, ConnectionError):
            return self._unusable("is not in the cache and the hub cannot be reached", None)
        if isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error):
            return self._unusable("needs a dataset script, which esft does not run", None)
        if isinstance(error, (OSError, HTTPError, ValueError, DatasetsError)):
            return self._unusable("cannot be loaded", error)
        return None

    def _unusable(self, what: str, error: Exception | None) -> TaskError:
        cause = "" if error is None else f": {' '.join(str(error).split())}"
        return TaskError(f"dataset {self.source} {what}{cause}", hint=self._offline_hint())

    def _offline_hint(self) -> str:
        return (
            f"to work offline, name a folder with {self.file}.train.jsonl as --data-dir, or set "
            "HF_HOME to a folder whose datasets cache has it; HF_ENDPOINT names another hub"
        )

"""The errors a user can fix: what was wrong, what was expected, how to fix it."""


class EsftError(Exception):
    """Something the user can fix, printed without a traceback.

    The message names file, key and value found, and what was expected; the hint, how to fix it.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class RecipeError(EsftError):
    """A recipe, or an option that replaces one of its values, is wrong."""

    exit_code = 2


class ModelError(EsftError):
    """A model cannot be found, read or tuned."""


class TaskError(EsftError):
    """A task, or the rows it needs, cannot be found or read."""


class UnknownTaskError(TaskError):
    """No task has the name that a recipe or an option gives."""

    exit_code = 2


class AnchorError(EsftError):
    """The base weights or the drift cannot be kept as asked."""


class RunError(EsftError):
    """A run cannot be started, recorded or saved."""


class RankError(RunError):
    """Another process of a torchrun failed, is gone or hangs, and this one ends with it."""

    def __init__(self, message: str, *, hint: str | None = None, quiet: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.quiet = quiet  # whether another process says so


class TakenError(RunError):
    """What was to be new is there already."""


class JournalError(EsftError):
    """A journal cannot be read, or is not as it was written."""


class SnapshotError(EsftError):
    """A snapshot of the drift is damaged, or belongs to another run."""

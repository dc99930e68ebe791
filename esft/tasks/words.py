"""The words by which settings say how a task is scored and graded, and on which rows."""

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name

SCORINGS = ("choice", "generate", "exact")
"""By the log-probability of each option, by grading a greedy answer, or by whether the greedy
answer is the reference to the token, which takes one forward and no answer."""
KNOW = "know"  # the task whose rows are those of another, its source
KNOW_SOURCE = "trivia-qa"  # where no other is named
MATCHES = ("substring", "words")
"""How a right answer is found in one to know: anywhere, or as whole words."""
KNOW_REWARDS = ("both", "correct", "align", "confidence")
REWARDS = ("correct", "prob", "logprob", *(name for name in KNOW_REWARDS if name != "correct"))
"""0 or 1, the probability of the right option, or the log-probability of the reference, a token;
of task know, see `esft.tasks.know`."""
SPLITS = ("train", "validation", "test")
OWN = (".jsonl", ".csv", ".parquet", ".py")  # how the names of files with a user's own tasks end
HUB = "hub:"  # how the name of a data set of the hub begins, as a user's own task


def is_file(name: str) -> bool:
    """Whether the name of a task is that of a user's file."""
    return name.endswith(OWN) and not name.startswith(HUB)


@dataclass(frozen=True)
class NamedGrader:
    """One way to grade answers to a user's own rows."""

    does: str
    """What is right, in a few words."""
    grading: str
    """How it grades, in a sentence."""
    function: str

    @property
    def grade(self) -> Callable:
        """From a row and an answer to a Grade; imported here, so that the words come without."""
        return resolve_name(f"esft.tasks.graders.{self.function}")


GRADERS = {
    "exact": NamedGrader(
        "the answer is the whole text",
        "1 where the answer equals a right one but for case and space",
        "text:grade_exact",
    ),
    "contains": NamedGrader(
        "the text states the answer as whole words",
        "1 where a right answer stands in the text as whole words, ignoring case; 0 where the text "
        "denies it, or lists more than three things of which it is one",
        "text:grade_contains",
    ),
    "number": NamedGrader(
        "the last number in the text equals the answer",
        "1 where the last number in the text (also 1/2, 50%, 10^9, \\frac{1}{2}) equals a right "
        "one exactly",
        "numbers:grade_number",
    ),
    "choice": NamedGrader(
        "the text names the right one of the row's choices",
        "1 where the answer states the right option and no other, by its label or its text: the "
        "last 'answer is B', a line that begins with B, or the option's words; not where denied",
        "choices:grade_choice",
    ),
    "math": NamedGrader(
        "the formula in \\boxed{} equals the answer as mathematics",
        "1 where the last \\boxed{} of the answer, else its last ####, else its last line if that "
        "is a formula alone, equals the right one as mathematics (math-verify, at most 1 s)",
        "math_answers:grade_math",
    ),
}
"""What `--grader` can name."""

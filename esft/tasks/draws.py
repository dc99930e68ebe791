"""Seeded draws that are the same on every machine and in every version of Python."""

from random import Random


class Draws:
    """Draws by Random.random alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, count: int) -> int:
        """A whole number from 0 to count - 1."""
        return int(self._random.random() * count)

    def word(self, characters: str, shortest: int, longest: int) -> str:
        """`shortest` to `longest` of these characters; each length is as likely as another."""
        length = shortest + self.below(longest - shortest + 1)
        return "".join(characters[self.below(len(characters))] for _ in range(length))

"""`esft cache`: how much is kept, and an end to it."""

import json

from command import esft

from esft.files import cache_folder
from esft.rollout.cache import Cache


def test_sizes_are_shown_per_kind_and_in_all():
    Cache().put("key", "x" * 5000)

    done = esft("cache")

    assert done.exit_code == 0
    measured, bases, total = done.stdout.splitlines()
    assert measured.split()[:5] == ["measured", "1", "file", "5.1", "kB"]
    assert bases.split()[:3] == ["bases", "0", "files"]
    assert total == f"in all 5.1 kB in {cache_folder()}"


def test_clearing_says_what_it_freed():
    Cache().put("key", "x" * 5000)

    done, again = esft("cache", "--clear", "--json"), esft("cache", "--clear")

    assert json.loads(done.stdout)["freed"] == 5067
    assert again.stdout == f"freed 0 bytes in {cache_folder()}\n"

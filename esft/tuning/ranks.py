"""The processes of a torchrun, and what they tell each other: rank 0 leads, the others follow.

Everything goes through the store that torchrun has for them to meet, by its one port: JSON as
bytes, which nothing but a JSON reader looks at. The leader sends a message and every follower
replies to it. A thread of each rank counts up in the store while the process lives, so that one
that is gone, or stands still, is noticed whatever the others do meanwhile.

Not by collectives of gloo, which open a port on every rank, and wait where no signal, and no news
of another rank's end, reaches Python.
"""

import json
import os
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from esft.errors import EsftError, RankError, RunError

BEAT_S = 1.0
"""Seconds from one sign of life to the next."""
GONE_S = 20.0
"""Seconds without one after which a rank is gone: longer than a library holds up all threads."""
JOIN_S = 300.0
"""Seconds in which all ranks must be there."""
SLOW_S, TIMES_AS_SLOW = 45.0, 10.0
"""A rank hangs that takes so many seconds more than so many times what the leader took."""
_LAST_S = 10.0
"""Seconds that a follower has to end by itself once another rank failed."""
_CHUNK = 4 << 20  # bytes; the store takes 8 MiB at most
_FAILED = "failed"


@dataclass(frozen=True)
class Place:
    """Which process of a torchrun this is; alone where there is none."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0  # on its machine
    local_world: int = 1
    restarts: int = 0  # how often torchrun started all of them again
    may_restart: bool = False


def place() -> Place:
    """Return the place that torchrun's environment names."""
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if not all(os.environ.get(name) for name in needed) or int(os.environ["WORLD_SIZE"]) < 2:
        return Place()

    def number(name: str, default: int) -> int:
        return int(os.environ.get(name, default))

    return Place(
        rank=number("RANK", 0),
        world=number("WORLD_SIZE", 1),
        local_rank=number("LOCAL_RANK", 0),
        local_world=number("LOCAL_WORLD_SIZE", 1),
        restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
        may_restart=number("TORCHELASTIC_MAX_RESTARTS", 0) > 0,
    )


@dataclass(frozen=True)
class Failure:
    """Why all ranks end."""

    rank: int | None  # whose fault it was; None where the store is lost
    text: str
    hint: str | None = None


class Ranks:
    """This process among the others of a torchrun; see the top of the module.

    Every method raises RankError once a rank failed, is gone or hangs: of a follower's own error,
    too, the leader hears so.
    """

    def __init__(self, where: Place, connect: Callable[[], Any]) -> None:
        self.place, self.host = where, socket.gethostname()
        self._store, self._heeding = connect(), False
        self._round = self._sent = 0  # number of the last message, and its chunks
        self._failure: Failure | None = None
        self._over, self._loud = threading.Event(), not where.rank
        self._main = threading.get_ident()
        self._signalled = hasattr(signal, "SIGUSR1")  # not on Windows: messages alone tell there
        if self._signalled:
            signal.signal(signal.SIGUSR1, self._on_signal)
        # A connection of its own: another's waits for what it asked for.
        beats = threading.Thread(target=self._beat, args=(connect(),), daemon=True)
        self._store.set(f"beat/{where.rank}", self.host)
        for rank in range(where.world):
            self._wait(f"beat/{rank}", JOIN_S, f"it did not come within {JOIN_S:g} s", rank)
        beats.start()

    @property
    def follows(self) -> bool:
        return self.place.rank > 0

    def send(self, do: str, **what: object) -> None:
        """Send a message to all followers."""
        self._round += 1
        self._sent = self._put(f"{self._round}", {"do": do, **what})

    def replies(self, busy: float = 0.0) -> list[Any]:
        """Return what each follower, from rank 1 on, replied to the last message.

        `busy` is how long, in seconds, the leader took for its own part of the work.
        """
        limit, found = SLOW_S + TIMES_AS_SLOW * busy, []
        for rank in range(1, self.place.world):
            why = f"it hangs: {limit:.0f} s after rank 0 it was not done"
            found.append(self._take(f"{self._round}/{rank}", limit, why, rank))
        self._forget(f"{self._round}", self._sent)
        return found

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield the leader's messages one by one, each to be replied to, until the last."""
        while True:
            self._round += 1
            message = self._take(f"{self._round}", None, "")
            if message["do"] == "end":
                self.reply(None)
                return
            yield message

    def reply(self, value: object) -> None:
        """Reply to the message in hand."""
        self._put(f"{self._round}/{self.place.rank}", value)

    def fail(self, error: BaseException) -> None:
        """Tell the other ranks that this one ends by `error`, and they with it."""
        name = "" if isinstance(error, EsftError) else f"{type(error).__name__}: "
        text = "stopped at once" if isinstance(error, KeyboardInterrupt) else f"{name}{error}"
        self._post(self._store, Failure(self.place.rank, text, getattr(error, "hint", None)))

    def leave(self) -> None:
        """Give no more signs of life."""
        self._over.set()

    @contextmanager
    def heeding(self) -> Iterator[None]:
        """Raise in the block at once, wherever it is, when another rank fails."""
        self._heeding = True
        try:
            self._refuse_failed()
            yield
        finally:
            self._heeding = False

    def _on_signal(self, number: int, frame: object) -> None:
        if self._heeding:
            self._heeding = False
            self._refuse_failed()

    def _refuse_failed(self) -> None:
        failure = self._failure
        if failure is not None:
            by = "" if failure.rank is None else f"rank {failure.rank} of {self.place.world}: "
            raise RankError(f"{by}{failure.text}", hint=failure.hint, quiet=not self._loud)

    def _put(self, key: str, value: object) -> int:
        """Put a value into the store; return in how many chunks."""
        data = zlib.compress(json.dumps(value).encode(), 1)
        chunks = [data[at : at + _CHUNK] for at in range(0, len(data), _CHUNK)]
        with self._connected():
            for at, chunk in enumerate(chunks):
                self._store.set(f"{key}.{at}", chunk)
            self._store.set(key, str(len(chunks)))
        return len(chunks)

    def _take(self, key: str, limit: float | None, why: str, rank: int = 0) -> Any:
        self._wait(key, limit, why, rank)
        with self._connected():
            count = int(self._store.get(key))
            data = b"".join(self._store.get(f"{key}.{at}") for at in range(count))
        if not self.follows:  # which alone reads a reply; a message is read by all
            self._forget(key, count)
        return json.loads(zlib.decompress(data))

    def _forget(self, key: str, chunks: int) -> None:
        with self._connected():
            for name in (key, *(f"{key}.{at}" for at in range(chunks))):
                self._store.delete_key(name)

    def _wait(self, key: str, limit: float | None, why: str, rank: int = 0) -> None:
        """Wait until the store has `key`; after `limit` seconds it is the failure of `rank`."""
        began = time.monotonic()
        while True:
            self._refuse_failed()
            with self._connected():
                if self._store.check([key]):
                    return
                waited = time.monotonic() - began
                if limit is not None and waited > limit:
                    self._post(self._store, Failure(rank, why, _RESUME))
            time.sleep(min(0.05, 0.001 + waited / 20))

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._lose(error)
            self._refuse_failed()

    def _lose(self, error: RuntimeError) -> None:
        why = f"the ranks lost their connection: {str(error).splitlines()[0]}"
        self._loud, self._failure = True, self._failure or Failure(None, why, _RESUME)

    def _post(self, store: Any, failure: Failure) -> None:
        """Make a failure known to all; the first one stays."""
        text = json.dumps(asdict(failure))
        with suppress(RuntimeError):
            first = store.compare_set(_FAILED, "", text).decode()
            # Where the leader is gone somebody else must say so.
            self._loud = self._loud or (first == text and failure.rank == 0)
            self._failure = Failure(**json.loads(first))

    def _beat(self, store: Any) -> None:
        """Give signs of life, and look for those of the followers, or of the leader."""
        watched = [0] if self.follows else [*range(1, self.place.world)]
        last = dict.fromkeys(watched, (b"", time.monotonic()))
        count = 0
        while self._failure is None:
            if self._over.wait(BEAT_S):
                return
            count += 1
            try:
                store.set(f"beat/{self.place.rank}", f"{self.host} {count}")
                if store.check([_FAILED]):
                    self._failure = Failure(**json.loads(store.get(_FAILED)))
                beats = store.multi_get([f"beat/{rank}" for rank in watched])
            except RuntimeError as error:
                self._lose(error)
                break
            now = time.monotonic()
            for rank, beat in zip(watched, beats, strict=True):
                if beat != last[rank][0]:
                    last[rank] = beat, now
                elif now - last[rank][1] > GONE_S:
                    host = beat.decode().split(" ")[0]
                    text = f"it is gone: there was no sign of it, on {host}, for {GONE_S:g} s"
                    self._post(store, Failure(rank, text, _RESUME))
        self._interrupt()

    def _interrupt(self) -> None:
        """Let the main thread know of a failure; a follower that cannot end by itself is ended."""
        if self._signalled:
            signal.pthread_kill(self._main, signal.SIGUSR1)
        if self.follows and not self._over.wait(_LAST_S):
            os._exit(1)


_RESUME = "what is done is kept; esft resume goes on with it, with any number of ranks"


@contextmanager
def joined() -> Iterator[Ranks | None]:
    """Yield the ranks of a torchrun in a block that ends for all when it ends for one; None where
    this process is alone.

    RunError if the others cannot be met.
    """
    where = place()
    if where.world == 1:
        yield None
        return
    ranks = Ranks(where, partial(_meeting_place, where))
    try:
        yield ranks
        if not ranks.follows:
            ranks.send("end")
            ranks.replies()
    except RankError:
        raise
    except EsftError as error:
        ranks.fail(error)
        if ranks.follows:
            raise RankError(str(error), hint=error.hint, quiet=True) from error
        raise
    except BaseException as error:
        ranks.fail(error)
        raise
    finally:
        ranks.leave()


def _meeting_place(where: Place) -> Any:
    """Return the store of torchrun, or that of rank 0 where something else started the ranks."""
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=timedelta(seconds=JOIN_S))))
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise RunError(
            f"rank {where.rank} cannot reach {address}: {str(error).splitlines()[0]}",
            hint="the machine of rank 0 must be reachable by that name, and that port be open",
        ) from error
    return PrefixStore(f"esft/{where.restarts}", store)

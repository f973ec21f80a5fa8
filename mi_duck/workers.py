"""Does several pieces of work at once, each in a thread of its own that waits for child processes; one end ends all.

Threads and not one loop over all children: what a piece of work does between two children, such as hashing what was
written, must not blind the watch over the memory of the others. A child is begun and awaited by the same thread, because
the kernel's notice of a parent's death is of that thread.
"""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

from mi_duck.children import CalledOffError
from mi_duck.errors import MiDuckError

Key = TypeVar("Key")
Result = TypeVar("Result")

SECONDS_BETWEEN_WAKINGS = 0.2  # a signal that reaches another thread waits for this one to wake


class Turn:
    """What a piece of work may ask while it is done: whether it was called off, and whether others were done beside it."""

    def __init__(self) -> None:
        self._off = threading.Event()
        self._company = threading.Event()

    def is_off(self) -> bool:
        """Return whether the work is to end now."""
        return self._off.is_set()

    def had_company(self) -> bool:
        """Return whether other work was done at any time since it began."""
        return self._company.is_set()

    def call_off(self) -> None:
        """Ask the work to end."""
        self._off.set()

    def note_company(self) -> None:
        """Note that other work is done beside it."""
        self._company.set()


class Crew(Generic[Key, Result]):
    """Pieces of work under way, by key; at the end of a ``with`` block those that are left are called off and awaited."""

    def __init__(self) -> None:
        self.running: dict[Key, Turn] = {}
        self._threads: list[threading.Thread] = []
        self._ended: SimpleQueue[tuple[Key, Result | MiDuckError | None]] = SimpleQueue()

    def __enter__(self) -> "Crew[Key, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for turn in self.running.values():
            turn.call_off()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(SECONDS_BETWEEN_WAKINGS)

    def start(self, key: Key, work: Callable[[Turn], Result], *, is_alone: bool = False) -> None:
        """Begin a piece of work, which gets its turn; one beside which none will begin is done here and now."""
        turn = Turn()
        for other in self.running.values():
            other.note_company()
            turn.note_company()
        self.running[key] = turn
        if is_alone:
            self._do(key, turn, work)
            return
        # a daemon, so that Ctrl-C twice ends the process at once, and the kernel the children
        self._threads.append(threading.Thread(target=self._do, args=(key, turn, work), daemon=True))
        self._threads[-1].start()

    def next(self) -> tuple[Key, Result]:
        """Wait for the next piece of work that ends; return its key and what it returned.

        Raises
        ------
        MiDuckError
            What it failed with.
        RuntimeError
            It failed of a bug; its traceback stands above.
        """
        while True:
            try:
                key, result = self._ended.get(timeout=SECONDS_BETWEEN_WAKINGS)
                break
            except Empty:
                continue
        del self.running[key]
        if isinstance(result, MiDuckError):
            raise result
        if result is None:
            raise RuntimeError(f"the thread of {key} died")
        return key, result

    def _do(self, key: Key, turn: Turn, work: Callable[[Turn], Result]) -> None:
        result: Result | MiDuckError | None = None
        try:
            result = work(turn)
        except MiDuckError as error:
            result = error
        except CalledOffError:
            pass
        finally:
            self._ended.put((key, result))

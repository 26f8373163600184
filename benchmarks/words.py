"""The kinds of atomic words that are measured: the library's own, and those of two others, where they are installed.

The adapters are here, and not in the library, because nothing there uses them: these rows say why.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final, Protocol, final

from flowctl import sync
from flowctl.atomic import AtomicWord, CellWord, LockWord
from flowctl.lease import SectionWord

MakeWord = Callable[[int], AtomicWord]


class _Int64(Protocol):
    """An integer of cereggii."""

    def get(self) -> int: ...

    def compare_and_set(self, expected: int, desired: int) -> bool: ...

    def get_and_increment(self, amount: int) -> int: ...


class _Exchanged(Protocol):
    """What an exchange of atomics returns."""

    success: bool


class _Atomic(Protocol):
    """An integer of atomics."""

    def load(self) -> int: ...

    def store(self, desired: int) -> None: ...

    def cmpxchg_strong(self, expected: int, desired: int) -> _Exchanged: ...

    def fetch_add(self, operand: int) -> int: ...


@final
class CereggiiWord:
    """Compare-and-swap by the processor."""

    __slots__ = ("_value", "compare_exchange", "load")

    def __init__(self, make: Callable[[int], _Int64], value: int) -> None:
        self._value = make(value)
        # its own methods, without a call of ours around them
        self.load: Callable[[], int] = self._value.get
        self.compare_exchange: Callable[[int, int], bool] = self._value.compare_and_set

    def fetch_add(self, amount: int) -> int:
        return self._value.get_and_increment(amount)


@final
class AtomicsWord:
    """Compare-and-swap by the processor, through ctypes."""

    __slots__ = ("_value", "load")

    def __init__(self, make: Callable[[], _Atomic], value: int) -> None:
        self._value = make()
        self._value.store(value)
        self.load: Callable[[], int] = self._value.load

    def compare_exchange(self, expected: int, new: int) -> bool:
        return self._value.cmpxchg_strong(expected, new).success

    def fetch_add(self, amount: int) -> int:
        return self._value.fetch_add(amount)


def _cereggii() -> MakeWord:
    make: Callable[[int], _Int64] = import_module("cereggii").AtomicInt64
    return lambda value: CereggiiWord(make, value)


def _atomics() -> MakeWord:
    library = import_module("atomics")

    def make() -> _Atomic:
        word: _Atomic = library.atomic(width=8, atype=library.INT)
        return word

    make()  # it may import well, and find no library of its own
    return lambda value: AtomicsWord(make, value)


OWN: Final[dict[str, MakeWord]] = {
    "CellWord": CellWord,
    "LockWord": LockWord,
    "SectionWord": lambda value: SectionWord(sync.RLock(), value),
}

FOREIGN: Final[dict[str, Callable[[], MakeWord]]] = {"cereggii": _cereggii, "atomics": _atomics}


def foreign_words(missing: Callable[[str], object] = print) -> dict[str, MakeWord]:
    """Those of other libraries that can be used here; `missing` is told of each that cannot."""
    found = {}
    for name, make in FOREIGN.items():
        try:
            found[name] = make()
        except Exception as error:  # noqa: BLE001 - whatever keeps a foreign library from loading, it has no row
            missing(f"no rows of {name}: {type(error).__name__}: {error}")
    return found

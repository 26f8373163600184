"""Moments: where an exception, a signal handler or a finaliser may come in the middle of the library's own code.

Python looks for signals and for exceptions from other threads where a function begins, where a call returns and where
a loop jumps back, and nowhere else. `Moments` counts these, and at one of them something happens.
"""

from __future__ import annotations

import collections
import dis
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Protocol, Self, final

import flowctl

_OURS = (str(Path(flowctl.__file__).parent), collections.__file__)
"""The library, and what of Python's own is written in Python and runs under its locks."""


class Tracer(Protocol):
    """What Python calls for what happens in a frame; it says who is called next."""

    def __call__(self, frame: FrameType, event: str, arg: object, /) -> Tracer | None: ...


@cache
def _looks(code: CodeType) -> frozenset[int]:
    """Where in a function an exception may come: right before the instructions at these offsets."""
    found: set[int] = set()
    returned = False
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if returned:
            found.add(instruction.offset)
        if "JUMP_BACKWARD" in name and "NO_INTERRUPT" not in name:
            # since 3.13 the jump itself raises, and may be out of the handlers that its loop is in
            found.add(instruction.offset if sys.version_info >= (3, 13) else int(instruction.argval))
        returned = name in {"CALL", "CALL_KW", "CALL_FUNCTION_EX"} or (returned and name == "EXTENDED_ARG")
    return frozenset(found)


@final
class Moments:
    """A `with` block in whose moment number `at` (from 1; 0: none) `act` is called, which may raise."""

    def __init__(self, at: int = 0, act: Callable[[], object] = int) -> None:
        self.passed = 0
        self._at = at
        self._act = act
        self._before = sys.gettrace()

    def __enter__(self) -> Self:
        sys.settrace(self._begins)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        sys.settrace(self._before)

    def _begins(self, frame: FrameType, event: str, arg: object, /) -> Tracer | None:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        self._pass()
        return self._goes_on

    def _goes_on(self, frame: FrameType, event: str, arg: object, /) -> Tracer | None:
        if event == "opcode" and frame.f_lasti in _looks(frame.f_code):
            self._pass()
        return self._goes_on

    def _pass(self) -> None:
        self.passed += 1
        if self.passed == self._at:
            sys.settrace(self._before)  # from here on at full speed
            self._act()

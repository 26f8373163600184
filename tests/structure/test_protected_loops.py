"""Since Python 3.13, an exception that comes where a loop jumps back may pass by the `try` or `with` around that loop.

The compiler leaves the jump of `while condition:`, and of a comprehension with an `if`, out of the exception table. So
such a loop stands in a function of its own, which an exception leaves by the call. On older Pythons nothing is found.
"""

import dis
import importlib
import pkgutil
import types
from collections.abc import Iterator

import pytest

import flowctl

MODULES = [name for _, name, is_package in pkgutil.walk_packages(flowctl.__path__, "flowctl.") if not is_package]


def code_objects(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from code_objects(constant)


def unprotected_jumps(code: types.CodeType) -> Iterator[str]:
    """Jumps back to a protected place from one that is not, or not by the same handler."""
    entries = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # not in the stubs

    begins = {instruction.offset: instruction.opname for instruction in dis.get_instructions(code)}

    def handler(offset: int) -> int | None:
        """Of a `try` or `with`; what only tidies up after a comprehension or generator raises on to the next."""
        target = next((entry.target for entry in entries if entry.start <= offset < entry.end), None)
        return target if target is None or begins[target] == "PUSH_EXC_INFO" else handler(target)

    for instruction in dis.get_instructions(code):
        # that of an `await` (NO_INTERRUPT) lets no exception in; 3.12 adds one without a line, for an awaitable that
        # returns what is thrown into it, and no future does
        is_loop = instruction.positions is not None and instruction.positions.lineno is not None
        if instruction.opname in ("JUMP_BACKWARD", "JUMP_BACKWARD_NO_JIT") and is_loop:
            assert isinstance(instruction.argval, int)
            if handler(instruction.argval) not in (None, handler(instruction.offset)):
                yield f"{code.co_filename}: {code.co_qualname}, line {instruction.positions}"


@pytest.mark.parametrize("name", [name for name in MODULES if ".demo." not in name])
def test_no_loop_stands_where_an_exception_would_pass_by_its_handler(name: str) -> None:
    path = importlib.import_module(name).__file__
    assert path is not None
    with open(path, encoding="utf-8") as source:  # noqa: PTH123 - one line
        module = compile(source.read(), path, "exec")

    found = [jump for code in code_objects(module) for jump in unprotected_jumps(code)]

    assert not found

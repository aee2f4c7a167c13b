"""What the instructions of a function say: whether its code may be traced at all."""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from pydistrib.kernels.tracing.stand_ins import StandIn, TypeStandIn
from pydistrib.kernels.tracing.symbols import Symbol

_NOT_PLAIN: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def _opcodes(reasons: dict[str, str]) -> dict[int, str]:
    return {
        dis.opmap[name]: reason
        for names, reason in reasons.items()
        for name in names.split()
        if name in dis.opmap
    }


# Instructions that change something outside the function, or look behind a value.
_REFUSED: Final = _opcodes(
    {
        "STORE_GLOBAL DELETE_GLOBAL STORE_NAME DELETE_NAME": "it changes a global",
        "STORE_ATTR DELETE_ATTR": "it changes an attribute",
        "STORE_SUBSCR DELETE_SUBSCR STORE_SLICE": "it changes an element or a slice",
        "IMPORT_NAME IMPORT_FROM IMPORT_STAR": "it imports",
        "LOAD_BUILD_CLASS": "it defines a class",
        "GET_AWAITABLE GET_AITER GET_ANEXT": "it awaits",
        "MATCH_CLASS": "it matches classes",
    }
)
_CELL_STORES: Final = frozenset(
    dis.opmap[name] for name in ("STORE_DEREF", "DELETE_DEREF") if name in dis.opmap
)
_CACHE: Final = dis.opmap["CACHE"]  # what specialised instructions keep; says nothing
_IS: Final = dis.opmap["IS_OP"]
_LOAD_CONST: Final = dis.opmap["LOAD_CONST"]

# What symbols and stand-ins have and real values have not.
_OURS: Final = frozenset(Symbol.__slots__ + StandIn.__slots__ + TypeStandIn.__slots__)


@lru_cache(maxsize=1024)
def objection(code: types.CodeType) -> str | None:
    """
    Say why code must not be traced, by its instructions alone.

    Parameters
    ----------
    code : code
        Of a function.

    Returns
    -------
    str or None
        The reason; None if it may be traced.
    """
    if code.co_flags & _NOT_PLAIN:
        return f"{code.co_qualname} is a generator or a coroutine"
    return _objection(code)


def _objection(code: types.CodeType) -> str | None:
    ops = code.co_code
    before = (-1, 0)
    for at in range(0, len(ops), 2):
        op, arg = ops[at], ops[at + 1]
        if op == _CACHE:
            continue
        if op in _REFUSED:
            return _REFUSED[op]
        if op in _CELL_STORES and code.co_freevars and _stores_outside(code):
            return "it changes a variable of the function around it"
        if op == _IS and not (before[0] == _LOAD_CONST and _none(code, before[1])):
            return "it compares identities"
        # After an extended argument the byte is not the whole index: no known None.
        before = (op, arg) if before[0] != dis.EXTENDED_ARG else (-1, 0)
    for name in code.co_names:
        if name.startswith("__"):
            return f"it uses {name}"
    if not _OURS.isdisjoint(code.co_names) and _OURS.intersection(_attributes(code)):
        return "it uses an attribute that means something else to the tracer"
    if code.co_exceptiontable and _has_while_loop(code):
        return "it has a while loop beside a try or with statement"
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            inner = _objection(const)
            if inner is not None:
                return inner
    return None


def _none(code: types.CodeType, index: int) -> bool:
    return index < len(code.co_consts) and code.co_consts[index] is None


def _stores_outside(code: types.CodeType) -> bool:
    return any(
        instruction.opcode in _CELL_STORES and instruction.argval in code.co_freevars
        for instruction in dis.get_instructions(code)
    )


def _attributes(code: types.CodeType) -> Iterator[Any]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            yield instruction.argval


def _has_while_loop(code: types.CodeType) -> bool:
    """Tell whether code jumps back to what is no for loop: it might never end."""
    at: dict[int, str] = {}
    jumps = []
    for instruction in dis.get_instructions(code):
        at[instruction.offset] = instruction.opname
        if "JUMP_BACKWARD" in instruction.opname:
            jumps.append(instruction.argval)
    return any(at.get(target) not in ("FOR_ITER", "SEND") for target in jumps)


@lru_cache(maxsize=1024)
def names_of(code: types.CodeType) -> frozenset[str]:
    """Give the names that code and the code within it may look up in the globals."""
    names = set(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            names |= names_of(const)
    return frozenset(names)

"""
The built-in sum(), which since Python 3.12 corrects the rounding errors of floats.

It adds Python's floats in Neumaier's way, but only these: the first number of another type
ends that, and NumPy's numbers are of another type.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from pydistrib.kernels.tracing import bounds
from pydistrib.kernels.tracing.kinds import Kind, unit
from pydistrib.kernels.tracing.refusal import refuse
from pydistrib.kernels.tracing.symbols import Symbol, Trace

SUM_IS_CORRECTED: Final = sys.version_info >= (3, 12)


def _type_name(value: Any) -> str:
    return value.kind.name if isinstance(value, Symbol) else type(value).__name__


def corrected_sum(values: list[Any], start: Any) -> Any:
    """
    Add up values, some of which are symbols, as sum() does.

    Parameters
    ----------
    values : list
        Symbols and constants.
    start : object
        What they are added to.

    Returns
    -------
    Symbol or number
        The sum.
    """
    total = start
    at = 0
    while at < len(values) and _type_name(total) in ("int", "bool"):
        total = total + values[at]
        at += 1
    if _type_name(total) == "float":
        terms = [total]
        while at < len(values) and _type_name(values[at]) in ("float", "int", "bool"):
            if _type_name(values[at]) != "float" and not _is_zero(values[at]):
                refuse("sum() of floats and integers is not known to the tracer")
            terms.append(values[at])
            at += 1
        total = _neumaier(terms)
    for value in values[at:]:
        total = total + value
    return total


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Symbol) and value == 0


def _neumaier(terms: list[Any]) -> Any:
    first = next((term for term in terms if isinstance(term, Symbol)), None)
    if first is None:
        return sum(terms[1:], terms[0])
    trace: Trace = first.trace
    g = trace.graph
    symbols = [trace.symbol(term) for term in terms]
    total, correction = symbols[0].node, g.const(0.0)
    for symbol in symbols[1:]:
        term = symbol.node
        added = g.op("ADD", total, term)
        larger = g.op("LE", g.op("ABS", term), g.op("ABS", total))
        lost = g.op(
            "WHERE",
            larger,
            g.op("ADD", g.op("SUB", total, added), term),
            g.op("ADD", g.op("SUB", term, added), total),
        )
        correction = g.op("ADD", correction, lost)
        total = added
    applies = g.op(
        "AND", g.op("NE", correction, g.const(0.0)), g.op("ISFINITE", correction)
    )
    node = g.op("WHERE", applies, g.op("ADD", total, correction), total)
    bound = bounds.plus(g, *(symbol.bound for symbol in symbols))
    if bound is not None:
        size = g.const(0.0)
        for symbol in symbols:
            size = g.op("ADD", size, g.op("ABS", symbol.node))
        own = bounds.rounding(g, size, unit("float64"), len(symbols) + 2.0)
        bound = bounds.plus(g, bound, own)
    return Symbol(trace, node, Kind("float"), 0, bound)

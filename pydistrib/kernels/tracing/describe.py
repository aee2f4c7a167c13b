"""A traced function as a formula, for people to read."""

from __future__ import annotations

from typing import Final

from pydistrib.kernels.tracing.graph import Graph

# A longer formula is cut: nobody reads it.
MAX_LENGTH: Final = 400

_INFIX: Final = {
    "ADD": "({} + {})",
    "SUB": "({} - {})",
    "MUL": "({} * {})",
    "DIV": "({} / {})",
    "LT": "({} < {})",
    "LE": "({} <= {})",
    "EQ": "({} == {})",
    "NE": "({} != {})",
    "AND": "({} and {})",
    "OR": "({} or {})",
    "NEG": "-{}",
    "NOT": "not {}",
    "SQUARE": "{}**2",
    "ABSDIFF": "abs({} - {})",
    "SQDIFF": "({} - {})**2",
    "COPY": "{}",
    "TO_F32": "float32({})",
    "WHERE": "where({}, {}, {})",
}
_FOLDS: Final = {
    "ADD": "sum",
    "ADD_SINGLE": "sum",
    "MUL": "prod",
    "MUL_SINGLE": "prod",
    "MIN": "min",
    "MAX": "max",
}


def describe(graph: Graph, node: int) -> str:
    """
    Write a node as a formula of the points a and b.

    Parameters
    ----------
    graph : Graph
        Where the node is.
    node : int
        What to describe.

    Returns
    -------
    str
        The formula, cut after `MAX_LENGTH` characters.
    """
    text = _text(graph, node, {}, 0)
    if text.startswith("(") and _closes_at_end(text):
        text = text[1:-1]
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 4] + " ..."


def _text(graph: Graph, index: int, known: dict[int, str], depth: int) -> str:
    if index in known:
        return known[index]
    if depth > 60:
        return "..."
    node = graph.nodes[index]
    args = [_text(graph, arg, known, depth + 1) for arg in node.args]
    if node.op in ("x", "y"):
        start, step, length = node.payload
        name = "a" if node.op == "x" else "b"
        whole = graph.leaves[node.op].ndim == 1 or (length and (start, step) == (0, 1))
        text = name if whole else f"{name}[{start}::{step}]"
        if not length and not whole:
            text = f"{name}[{start}]"
    elif node.op == "const":
        text = f"{float(graph.value_of(index)):g}"
    elif node.op == "vector":
        text = "w"
    elif node.op == "call":
        text = f"{node.payload[0].__name__}({', '.join(args)})"
    elif node.op == "fold":
        text = f"{_FOLDS[node.payload]}({args[0]})"
    elif node.op in _INFIX:
        text = _INFIX[node.op].format(*args)
    else:
        text = f"{node.op.lower()}({', '.join(args)})"
    known[index] = text[: 2 * MAX_LENGTH]
    return known[index]


def _closes_at_end(text: str) -> bool:
    """Tell whether the first parenthesis is closed by the last character."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at == len(text) - 1
    return False

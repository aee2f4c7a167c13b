"""
From the graph to the words that the core's expression machine runs.

The format, and what slots and stages are, is told in ``src/expr/program.h``.  Nodes that
depend on the columns' points alone go into the prepare part.  In each part folds are
ordered by their level, and between two levels lies one stage for all numbers that are
complete by then; the folds of one level over vectors of one length share a stage, in which
the elements of the vectors they need are computed one feature after the other.

Slots are handed out as registers are: a slot of many values is free again after the last
instruction that reads it.  A number that a loop over features reads stays to its end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pydistrib import _core
from pydistrib.kernels.tracing.graph import COLUMN, Graph, Node

_NARROW, _WIDE, _COLUMN = 0, 1, 2
_SOURCES: Final = {"x": 0, "y": 1, "vector": 2, "const": 2}
_FOLDS: Final = {
    "ADD": 0, "MUL": 1, "ADD_SINGLE": 2, "MUL_SINGLE": 3, "MIN": 4, "MAX": 5
}  # fmt: skip
_OPERATIONS: Final = {name: i for i, name in enumerate(_core.expr_operations())}


@dataclass(frozen=True)
class Program:
    """
    What a function was traced to.

    Parameters
    ----------
    words : ndarray of int64
        See ``src/expr/program.h``.
    functions : tuple of (numpy.ufunc, bool)
        What it calls, and whether with floats.
    """

    words: NDArray[np.int64]
    functions: tuple[tuple[np.ufunc, bool], ...]

    def has_doubt(self) -> bool:
        """Tell whether it computes a bound of its error."""
        return bool(self.words[-1] != -1)

    def of_doubt(self) -> Program:
        """Give the program whose value is the bound of this one's error."""
        words = self.words.copy()
        words[-2:] = words[-1], -1
        return Program(words, self.functions)


@dataclass
class _Stage:
    """Nodes by what the stage does with them."""

    prepares: bool
    length: int
    loads: list[int] = field(default_factory=list)
    instructions: list[int] = field(default_factory=list)
    folds: list[int] = field(default_factory=list)


def compile_program(graph: Graph, value: int, doubt: int | None) -> Program:
    """
    Compile the nodes that a value and its bound need.

    Parameters
    ----------
    graph : Graph
        The nodes.
    value : int
        The node of the result, a number.
    doubt : int or None
        The node of the bound of its error; None if it is exact.

    Returns
    -------
    Program
        What `_core.expr_producer` takes.
    """
    outputs = [node for node in (value, doubt) if node is not None]
    # Leaves have no place of their own that outlives a stage.
    outputs = [graph.op("COPY", n) if _is_leaf(graph.nodes[n]) else n for n in outputs]
    stages = _plan(graph.nodes, reachable(graph.nodes, outputs))
    return _Assembler(graph.nodes, stages, outputs).assemble()


def _is_leaf(node: Node) -> bool:
    return node.op in _SOURCES


def reachable(nodes: list[Node], outputs: list[int]) -> list[int]:
    """Give the nodes that some nodes need, and these, in order."""
    seen = set(outputs)
    stack = list(outputs)
    while stack:
        for arg in nodes[stack.pop()].args:
            if arg not in seen:
                seen.add(arg)
                stack.append(arg)
    return sorted(seen)


def _plan(nodes: list[Node], wanted: list[int]) -> list[_Stage]:
    """Distribute nodes over stages, in the order in which these run."""
    stages: dict[tuple[bool, int, int], _Stage] = {}
    for index in wanted:
        node = nodes[index]
        if node.length or _is_leaf(node):
            continue  # belongs to the stages that read it
        prepares = node.rate in (0, COLUMN)
        is_fold = node.op == "fold"
        length = nodes[node.args[0]].length if is_fold else 0
        key = (not prepares, 2 * node.level - is_fold, length)
        stage = stages.setdefault(key, _Stage(prepares, length))
        (stage.folds if is_fold else stage.instructions).append(index)
    for stage in stages.values():
        _gather(nodes, stage)
    return [stages[key] for key in sorted(stages)]


def _gather(nodes: list[Node], stage: _Stage) -> None:
    """Add to a stage the leaves and the elements of vectors that it reads."""
    needed: set[int] = set()
    stack = stage.instructions + stage.folds
    while stack:
        for arg in nodes[stack.pop()].args:
            node = nodes[arg]
            if arg not in needed and (node.length or _is_leaf(node)):
                needed.add(arg)
                stack.append(arg)
    stage.loads = sorted(n for n in needed if _is_leaf(nodes[n]))
    elements = sorted(n for n in needed if not _is_leaf(nodes[n]))
    stage.instructions = elements + stage.instructions


class _Assembler:
    """Hands out slots and writes words, stage by stage."""

    def __init__(self, nodes: list[Node], stages: list[_Stage], outputs: list[int]) -> None:
        self.nodes = nodes
        self.stages = stages
        self.outputs = outputs
        self.constants: list[int] = []
        self.slots: list[int] = []
        self.free: list[int] = []  # WIDE ones
        self.slot_of: dict[int, int] = {}
        self.functions: dict[tuple[np.ufunc, bool], int] = {}
        # Where each node is read last: a stage's position and an instruction's within.
        self.last_read: dict[int, tuple[int, int]] = {}

    def assemble(self) -> Program:
        self._find_last_reads()
        bodies = [self._stage(at, stage) for at, stage in enumerate(self.stages)]
        prepare = sum(stage.prepares for stage in self.stages)
        words = [len(self.constants), *self.constants, len(self.slots), *self.slots]
        words += [prepare, len(self.stages) - prepare]
        for body in bodies:
            words += body
        words += [self.slot_of[node] for node in self.outputs]
        if len(self.outputs) == 1:
            words.append(-1)
        return Program(np.array(words, np.int64), tuple(self.functions))

    def _find_last_reads(self) -> None:
        for at, stage in enumerate(self.stages):
            end = len(stage.instructions)
            for k, index in enumerate(stage.instructions):
                for arg in self.nodes[index].args:
                    stays = stage.length and not self.nodes[arg].length
                    self.last_read[arg] = (at, end if stays else k)
            for index in stage.folds:
                self.last_read[self.nodes[index].args[0]] = (at, end)
        for node in self.outputs:
            self.last_read[node] = (len(self.stages), 0)

    def _stage(self, at: int, stage: _Stage) -> list[int]:
        loads = [self._load(index) for index in stage.loads]
        instructions = []
        for k, index in enumerate(stage.instructions):
            instructions.append(self._instruction(stage, index))
            self._release(self.nodes[index].args, (at, k))
        folds = [self._fold(stage, index) for index in stage.folds]
        end = (at, len(stage.instructions))
        self._release([n for n in self.slot_of if self.last_read.get(n) == end], end)
        words = [stage.length]
        for rows in (loads, instructions, folds):
            words.append(len(rows))
            for row in rows:
                words += row
        return words

    def _release(self, nodes: Iterable[int], here: tuple[int, int]) -> None:
        for node in set(nodes):
            slot = self.slot_of[node]
            if self.slots[slot] == _WIDE and self.last_read[node] == here:
                self.free.append(slot)

    def _slot(self, index: int, kind: int) -> int:
        if kind == _WIDE and self.free:
            slot = self.free.pop()
        else:
            slot = len(self.slots)
            self.slots.append(kind)
        self.slot_of[index] = slot
        return slot

    def _load(self, index: int) -> list[int]:
        node = self.nodes[index]
        slot = self._slot(index, _COLUMN if node.op == "y" else _NARROW)
        if node.op in ("x", "y"):
            start, step, length = node.payload
            return [slot, _SOURCES[node.op], start, step if length else 0]
        start = len(self.constants)
        if node.op == "const":
            self.constants.append(node.payload)
            return [slot, _SOURCES[node.op], start, 0]
        self.constants += node.payload
        return [slot, _SOURCES[node.op], start, 1]

    def _result_slot(self, stage: _Stage, index: int) -> int:
        if not self.nodes[index].rate & COLUMN:
            return self._slot(index, _NARROW)
        return self._slot(index, _COLUMN if stage.prepares else _WIDE)

    def _instruction(self, stage: _Stage, index: int) -> list[int]:
        node = self.nodes[index]
        if node.op == "call":
            function = self.functions.setdefault(node.payload, len(self.functions))
            operation = len(_OPERATIONS) + function
        else:
            operation = _OPERATIONS[node.op]
        sources = [self.slot_of[arg] for arg in node.args]
        # Its slot is taken before theirs are released: it must be none of them.
        return [operation, self._result_slot(stage, index), *sources]

    def _fold(self, stage: _Stage, index: int) -> list[int]:
        node = self.nodes[index]
        source = self.slot_of[node.args[0]]
        return [_FOLDS[node.payload], source, self._result_slot(stage, index)]

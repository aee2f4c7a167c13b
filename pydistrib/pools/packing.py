"""
What is sent to worker processes: pickles, and arrays beside them in shared memory.

A function is sent once and has a number; a worker that knows the number does not look at
the pickle.  An array of 1 MB or more that several tasks have is there once.
"""

from __future__ import annotations

import itertools
import weakref
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy as np

from pydistrib._core import Board, Piece
from pydistrib.pools import pickling

if TYPE_CHECKING:
    from pydistrib.pools.process_tasks import Task

INSIDE = 432  # bytes of a payload that fit into a slot
SHARED = 1 << 20  # arrays of this size are looked up: several tasks may have the same

Function = tuple[int, Piece, None, tuple[Piece, ...]]

# Of one map or stream: arrays that were put into shared memory, by identity.  The array is
# kept while its copy is, so that the identity stays its own.
Seen = dict[int, tuple[Any, "weakref.ref[Piece]"]]


class Packer:
    """
    Pickles functions and arguments for the workers of one pool.

    Parameters
    ----------
    board : Board
        The pool's.
    main : ForkedMain, optional
        What the workers have of ``__main__``; by default nothing.
    """

    def __init__(self, board: Board, main: pickling.ForkedMain | None) -> None:
        self.board = board
        self.main = main
        self.numbers = itertools.count(1)
        # id -> (function, what was sent, its code, what it depends on)
        self.functions: dict[int, tuple[Any, Function, Any, pickling.Dependencies]] = {}
        self.shared: dict[tuple[int, int], weakref.ref[Piece]] = {}

    def function(self, func: Any, seen: Seen | None) -> Function:
        """Pickle a function, or find that it is in shared memory already."""
        known = self.functions.get(id(func))
        code = getattr(func, "__code__", None)
        if (
            known is not None
            and known[0] is func
            and known[2] is code
            and (not known[3] or pickling.unchanged(known[3]))
        ):
            return known[1]
        buffers: list[Any] = []
        data = pickling.dumps(func, buffers, self.main)
        pieces = self.pieces(buffers, seen)
        function: Function = (
            next(self.numbers),
            self.board.pack(data, pieces),
            None,
            pieces,
        )
        if not pieces and (found := self._dependencies(func, data)) is not None:
            if len(self.functions) >= 256:
                self.functions.clear()
            self.functions[id(func)] = (func, function, code, found)
        return function

    @staticmethod
    def _dependencies(func: Any, data: bytes) -> pickling.Dependencies | None:
        if type(func) not in (FunctionType, BuiltinFunctionType, type):
            return None
        if b"_set_main_function" in data or b"cloudpickle" in data:
            return pickling.dependencies(func)
        return []  # it is sent by its name, and stays what it is

    def pickle(self, task: Task, what: Any, seen: Seen | None) -> None:
        """Pickle a task's argument."""
        buffers: list[Any] = []
        self.place(task, pickling.dumps(what, buffers, self.main), buffers, seen)

    def small_pickle(self, what: Any) -> bytes | None:
        """Pickle what has no large buffers; else None."""
        buffers: list[Any] = []
        data = pickling.dumps(what, buffers, self.main)
        return None if buffers else data

    def place(self, task: Task, data: bytes, buffers: list[Any], seen: Seen | None) -> None:
        pieces = self.pieces(buffers, seen) if buffers else ()
        task.pieces = pieces
        if len(data) + 16 * len(pieces) <= INSIDE:
            task.payload = data
        else:
            task.payload = self.board.pack(data, pieces)

    def pieces(self, buffers: list[Any], seen: Seen | None) -> tuple[Piece, ...]:
        return tuple(
            self._shared_piece(buffer, seen)
            if memoryview(buffer).nbytes >= SHARED
            else self.board.put(buffer)
            for buffer in buffers
        )

    def _shared_piece(self, buffer: Any, seen: Seen | None) -> Piece:
        view = memoryview(buffer)
        owner = view.obj
        if seen is not None and (entry := seen.get(id(owner))) is not None:
            piece = entry[1]()
            if piece is not None and entry[0] is owner and len(piece) == view.nbytes:
                return piece
        address = np.frombuffer(buffer.raw(), np.uint8).__array_interface__["data"][0]
        key = (address, view.nbytes)
        reference = self.shared.get(key)
        piece = None if reference is None else reference()
        if piece is None or not piece.same(buffer.raw()):
            piece = self.board.put(buffer)
            piece.shared = True
            shared = self.shared
            shared[key] = weakref.ref(piece, lambda gone: _forget(shared, key, gone))
        if seen is not None and isinstance(owner, np.ndarray):
            number = id(owner)
            seen[number] = (owner, weakref.ref(piece, lambda _: seen.pop(number, None)))
        return piece


def _forget(
    shared: dict[tuple[int, int], weakref.ref[Piece]],
    key: tuple[int, int],
    gone: weakref.ref[Piece],
) -> None:
    if shared.get(key) is gone:
        del shared[key]

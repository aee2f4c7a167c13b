"""
What a worker process does: it takes tasks from the board, runs them, gives the results.

It imports as little as possible: a worker is there at once, and what it lacks to report a
failure it imports then.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

from pydistrib import _config
from pydistrib._core import Desk, die_with_parent, recycle_results
from pydistrib.pools import pickling
from pydistrib.pools.failures import encoding_error, pack_failure

# How a task's payload is to be used.
CALL: Final = 0  # (args, kwargs or None)
ITEM: Final = 1  # the one argument
ITEMS: Final = 2  # a list of such
STAR: Final = 3  # a sequence of arguments
STARS: Final = 4  # a list of such
BEGIN: Final = 16  # added to these: the parent wants to know when the task begins

# Kinds of mail; src/py/board.h has the same.
RESULT: Final = 1
ERROR: Final = 2
BEGUN: Final = 3
TEXT: Final = 5
READY: Final = 6
FAILED: Final = 7
LEAVING: Final = 8

FUNCTIONS_KEPT = 64
TEXT_KEPT = 5000  # characters, of at most 6 bytes, that one mail holds


@dataclass
class Setup:
    """What a worker has to know; it was inherited, or came pickled."""

    main: dict[str, Any]  # how to import ``__main__``, if need be

    board_fd: int
    ring_fd: int
    workers: int
    spin: float
    name: str
    max_tasks: int | None
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]


class Absent(Exception):
    """The worker can't find what a task refers to: send the thing itself."""


# --------------------------------------------------------------------------------------
# Output
# --------------------------------------------------------------------------------------


class Relay(io.TextIOBase):
    """`sys.stdout` or `sys.stderr` of a worker: the parent prints what is written here."""

    def __init__(self, desk: Desk, stream: int, terminal: bool) -> None:
        self._desk = desk
        self._stream = stream
        self._terminal = terminal
        self._parts: list[str] = []
        self._pid = os.getpid()

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def name(self) -> str:
        return "<stdout>" if self._stream == 1 else "<stderr>"

    def writable(self) -> bool:
        return True

    def reconfigure(self, **_settings: Any) -> None:
        """Take note of nothing: the text is the parent's to encode."""

    def isatty(self) -> bool:
        return self._terminal

    def fileno(self) -> int:
        return self._stream

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._parts.append(text)
        if "\n" in text or "\r" in text:
            self.flush()
        return len(text)

    def flush(self) -> None:
        if not self._parts:
            return
        parts, self._parts = self._parts, []
        text = "".join(parts)
        if os.getpid() != self._pid:  # in a process that the worker forked
            with open(self._stream, "wb", closefd=False) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
            return
        for at in range(0, len(text), TEXT_KEPT):
            data = text[at : at + TEXT_KEPT].encode("utf-8", "backslashreplace")
            self._desk.say(TEXT, bytes((self._stream,)) + data)

    @property
    def buffer(self) -> io.BufferedIOBase:
        return _Bytes(self)


class _Bytes(io.BufferedIOBase):
    """`sys.stdout.buffer` of a worker."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        text = bytes(data).decode("utf-8", "replace")
        self._relay.write(text)
        return len(data)

    def flush(self) -> None:
        self._relay.flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is Relay and not stream._parts:
            continue  # after nearly every task
        with contextlib.suppress(Exception):
            stream.flush()


# --------------------------------------------------------------------------------------
# Tasks
# --------------------------------------------------------------------------------------


class _Worker:
    def __init__(self, desk: Desk, main: dict[str, Any]) -> None:
        self.desk = desk
        self.main = main
        self.functions: OrderedDict[int, Any] = OrderedDict()

    def function(self, number: int) -> Any:
        """Give the task's function, which may be here already."""
        function = self.functions.get(number)
        if function is None:
            code, buffers = self.desk.code()
            function = self.load(code, buffers)
            # Others may change when they are called, and each task gets a fresh one.
            if type(function) in (FunctionType, BuiltinFunctionType, type):
                self.functions[number] = function
                if len(self.functions) > FUNCTIONS_KEPT:
                    self.functions.popitem(last=False)
        return function

    def load(self, data: Any, buffers: Any) -> Any:
        try:
            return pickling.loads(data, buffers=buffers)
        except (AttributeError, ImportError) as error:
            if "__main__" in str(error) and self.main:
                main, self.main = self.main, {}
                _import_main(main)
                return pickling.loads(data, buffers=buffers)
            raise Absent(error) from error

    def call(self, mode: int, number: int) -> Any:
        function = self.function(number)
        what = self.load(*self.desk.payload())
        if mode & BEGIN:
            self.desk.begin()
            mode -= BEGIN
        if mode == CALL:
            args, kwargs = what
            del what
            return function(*args) if kwargs is None else function(*args, **kwargs)
        if mode == ITEM:
            return function(what)
        if mode == ITEMS:
            return [function(item) for item in what]
        if mode == STAR:
            return function(*what)
        return [function(*item) for item in what]

    def run(self, mode: int, number: int) -> bool:
        """Run the task that was taken and give its outcome."""
        buffers: list[Any] = []
        try:
            result = self.call(mode, number)
            success = True
        except BaseException as error:
            success, data = False, pack_failure(error)
            del error
        else:
            try:
                data = pickling.dumps_result(result, buffers)
            except BaseException as error:
                success, data = False, pack_failure(encoding_error(error, result))
                del buffers[:], error
        _flush()
        try:
            given = self.desk.give(success, data, tuple(buffers), number in self.functions)
        except MemoryError as error:
            given = self.desk.give(False, pack_failure(error), (), number in self.functions)
        return given


def _import_main(main: dict[str, Any]) -> None:
    """
    Import the parent's main module, as the standard library's workers do at once.

    The last resort, for what can be sent by name only.
    """
    from multiprocessing import process, spawn

    me: Any = process.current_process()
    me._inheriting = True  # a script that lacks its guard
    try:
        spawn.prepare(main)
    finally:
        del me._inheriting


def work(desk: Desk, max_tasks: int | None, main: dict[str, Any]) -> None:
    """Run tasks until there are none, or `max_tasks` of them."""
    worker = _Worker(desk, main)
    while isinstance(task := desk.take(-1.0), tuple):
        if not worker.run(*task):
            while True:  # the task was taken away, and this process is being killed
                time.sleep(1)
        if max_tasks is not None:
            max_tasks -= 1
            if max_tasks == 0:
                break


# --------------------------------------------------------------------------------------
# Life
# --------------------------------------------------------------------------------------


def _note_nothing(_number: int, _frame: object) -> None:
    """Let Ctrl-C, which the terminal sends to all, be the parent's business."""


def _set_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, _note_nothing)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _become(name: str, number: int, parent_pid: int) -> None:
    """Be a process of multiprocessing: `current_process()` says which."""
    import multiprocessing.process as process

    me = process.BaseProcess.__new__(process.BaseProcess)
    parent = process._current_process  # type: ignore[attr-defined]
    me.__dict__.update(
        _identity=(number + 1,),
        _config={"authkey": parent._config["authkey"], "semprefix": "/mp"},
        _parent_pid=parent_pid,
        _parent_name=parent.name,
        _popen=None,
        _closed=False,
        _target=None,
        _args=(),
        _kwargs={},
        _name=f"{name}-{number + 1}",
    )
    process._current_process = me  # type: ignore[attr-defined]
    process._children = set()  # type: ignore[attr-defined]


def run(
    setup: Setup, number: int, box_fd: int, stack_fd: int, parent: int, nursery: int
) -> int:
    """
    Be worker `number` of a pool, in a process that was made for it.

    Returns
    -------
    int
        The exit status.
    """
    if not die_with_parent(nursery):
        return 1  # it has ended, and the pool with it
    _set_signals()
    faulthandler.enable(file=stack_fd, all_threads=True)
    desk = Desk(os.dup(setup.board_fd), box_fd, setup.ring_fd, number, setup.spin)
    terminals = [_is_terminal(stream) for stream in (1, 2)]
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.stdout = Relay(desk, 1, terminals[0])
    sys.stderr = Relay(desk, 2, terminals[1])
    _become(setup.name, number, parent)
    _config.enter_pool(setup.workers)
    recycle_results()
    pickling.adopt_main()
    if setup.initializer is not None:
        try:
            setup.initializer(*setup.initargs)
        except BaseException as error:
            _flush()
            desk.say(FAILED, pack_failure(error))
            return 1
    desk.say(READY, b"")
    work(desk, setup.max_tasks, setup.main)
    _finish()
    desk.say(LEAVING, b"")
    return 0


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _finish() -> None:
    """Do what the standard library's processes do at their end."""
    if (util := sys.modules.get("multiprocessing.util")) is not None:
        with contextlib.suppress(Exception):
            util._exit_function()
    _flush()

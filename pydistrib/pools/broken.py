"""
What can go wrong that is nobody's exception.

::

    concurrent.futures.process.BrokenProcessPool
        WorkerDied          a process ended in the middle of a task
        PoolBroken          a pool can't get its workers to work
"""

from __future__ import annotations

import signal as _signal
from concurrent.futures.process import BrokenProcessPool
from typing import Any

__all__ = ["BrokenProcessPool", "PoolBroken", "WorkerDied"]


class PoolBroken(BrokenProcessPool):
    """A pool of processes can't get its workers to work: what is in it fails."""


class WorkerDied(BrokenProcessPool):
    """
    The process that ran a task ended before the task did.

    It fails that task alone: the pool replaces the worker and goes on.

    Attributes
    ----------
    task : str
        What the worker was running.
    pid : int
        Its process.
    exitcode : int
        As of `multiprocessing.Process`: the exit status, or minus the signal's number.
    signal : signal.Signals or None
        What killed it.
    out_of_memory : bool
        Whether the system has killed a process for want of memory meanwhile, and this
        was killed by SIGKILL, which nobody here had sent.
    stack : str
        Its Python stack, where the signal let it be written.
    """

    def __init__(
        self,
        task: str,
        pid: int,
        exitcode: int,
        out_of_memory: bool = False,
        stack: str = "",
    ) -> None:
        self.task = task
        self.pid = pid
        self.exitcode = exitcode
        self.out_of_memory = out_of_memory
        self.stack = stack
        self.signal: _signal.Signals | None = None
        if exitcode < 0:
            try:
                self.signal = _signal.Signals(-exitcode)
            except ValueError:
                self.signal = None
        super().__init__(self._text())

    def _text(self) -> str:
        if self.signal is not None:
            how = f"was killed by {self.signal.name}"
        elif self.exitcode < 0:
            how = f"was killed by signal {-self.exitcode}"
        else:
            how = f"exited with status {self.exitcode}"
        text = f"the worker (pid {self.pid}) {how} while it ran {self.task}"
        if self.out_of_memory:
            text += "; the system was out of memory"
        if self.stack:
            text += "\n\nIts Python stack:\n" + self.stack.rstrip()
        return text

    def __reduce__(self) -> Any:
        return (
            type(self),
            (self.task, self.pid, self.exitcode, self.out_of_memory, self.stack),
        )

"""The workers of a process pool, as seen from the process that has the pool."""

from __future__ import annotations

import os
import select
import threading


class Worker:
    """
    A worker of a pool, as seen from its parent.

    Attributes
    ----------
    name : str
        As `multiprocessing.current_process().name` in the worker.
    pid : int or None
        Its process, which is waited for while it is being made.
    exitcode : int or None
        As of `multiprocessing.Process`; None while it runs.
    """

    daemon = True

    def __init__(self, desk: int, name: str, stack_fd: int) -> None:
        self.desk = desk
        self.name = name
        self.exitcode: int | None = None
        self.ready_at: float | None = None
        self.asked = False  # the nursery is making it
        self.killed = False  # by us
        self._pid = 0
        self._stack_fd = stack_fd
        self._made = threading.Event()

    def __repr__(self) -> str:
        state = "started" if self.exitcode is None else f"ended {self.exitcode}"
        return f"<{type(self).__name__} name={self.name!r} pid={self._pid} {state}>"

    @property
    def pid(self) -> int | None:
        self._made.wait(30)
        return self._pid or None

    ident = pid

    def is_alive(self) -> bool:
        """Tell whether it runs, or is about to."""
        return self.exitcode is None

    def made(self, pid: int) -> None:
        self._pid = pid
        self._made.set()

    def ended(self, exitcode: int) -> None:
        self.exitcode = exitcode
        self._made.set()

    def stack(self) -> str:
        """Read what the fault handler has left."""
        try:
            size = os.fstat(self._stack_fd).st_size
            return os.pread(self._stack_fd, min(size, 1 << 16), 0).decode(
                "utf-8", "replace"
            )
        except OSError:
            return ""

    def forget(self) -> None:
        if self._stack_fd >= 0:
            os.close(self._stack_fd)
            self._stack_fd = -1


def kills_for_memory() -> int:
    """Count the processes that the system has killed for want of memory."""
    count = 0
    for path, key in (
        ("/proc/vmstat", "oom_kill"),
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
    ):
        try:
            with open(path) as lines:
                for line in lines:
                    name, _, value = line.partition(" ")
                    if name == key:
                        count += int(value)
        except (OSError, ValueError):
            continue
    return count


def await_death(pid: int) -> None:
    """Wait until a process that is being killed has ended."""
    if not pid:
        return
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return
    try:
        select.select([fd], [], [], 5)
    finally:
        os.close(fd)


def cpu_seconds(pid: int) -> float | None:
    if not pid:
        return None  # it may have worked before this process hears of its start
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None

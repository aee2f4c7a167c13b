"""
Where workers come from.

A pool has a nursery, a process with a single thread that makes workers by fork() whenever
the pool asks, sees them end, and tells the pool how::

    parent --- socket ---> nursery --- fork ---> worker 0, worker 1 ...
                 <--- started, ended (status) ---

What differs between the start methods is where the nursery comes from.  With ``fork`` it is
a copy of the parent as it was when the pool was made; with ``forkserver`` a copy of the
zygote, a fresh interpreter that has imported NumPy and pydistrib and serves all pools of
the parent; with ``spawn`` also, but it makes workers by starting the interpreter anew.
So no process with threads is ever forked but by ``fork``, and that once, by the user.

The parent's death closes the socket and is told by a descriptor of the process as well:
the nursery ends, and the kernel kills its workers.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from pydistrib.pools.worker import Setup

METHODS: Final = ("fork", "forkserver", "spawn")

# To the nursery: (what, desk, signal); to the parent: (what, desk, pid, status).
_REQUEST = struct.Struct("<Bii")
_REPORT = struct.Struct("<Biii")
START, KILL = 1, 2
STARTED, REFUSED, ENDED = 1, 2, 3


# --------------------------------------------------------------------------------------
# In the nursery
# --------------------------------------------------------------------------------------

# Makes a worker: (desk, mailbox, stack file) -> pid.
StartWorker = Callable[[int, int, int], int]


class _Nursery:
    def __init__(self, link: socket.socket, parent: int, start: StartWorker) -> None:
        self.link = link
        self.start_worker = start
        self.desks: dict[int, int] = {}  # pid -> desk
        self.pids: dict[int, int] = {}  # descriptor of a child -> its pid
        self.poller = select.poll()
        self.poller.register(link, select.POLLIN)
        self.parent_fd = _watch(parent)
        if self.parent_fd >= 0:
            self.poller.register(self.parent_fd, select.POLLIN)

    def serve(self) -> None:
        while True:
            # Without descriptors of processes children are looked for now and then.
            timeout = 50 if len(self.pids) < len(self.desks) else None
            for fd, _ in self.poller.poll(timeout):
                if fd == self.parent_fd:
                    return
                if fd == self.link.fileno():
                    if not self.obey():
                        return
                elif fd in self.pids:
                    self.reap(self.pids[fd], fd)
            if len(self.pids) < len(self.desks):
                known = set(self.pids.values())
                for pid in [pid for pid in self.desks if pid not in known]:
                    self.reap(pid, -1)

    def obey(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self.link, 64, 4)
        except ConnectionError:
            return False
        if not message:
            return False
        what, desk, number = _REQUEST.unpack(message)
        if what == KILL:
            # It can't be another's pid: who waits for the process is this one.
            for pid in [pid for pid, at in self.desks.items() if at == desk]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        elif len(fds) == 2:
            self.start(desk, *fds)
        else:  # the limit of descriptors
            for fd in fds:
                os.close(fd)
            self.report(REFUSED, desk, 0, errno.EMFILE)
        return True

    def start(self, desk: int, box_fd: int, stack_fd: int) -> None:
        try:
            pid = self.start_worker(desk, box_fd, stack_fd)
        except MemoryError:
            self.report(REFUSED, desk, 0, errno.ENOMEM)
        except OSError as error:
            self.report(REFUSED, desk, 0, error.errno or 0)
        else:
            self.desks[pid] = desk
            fd = _watch(pid)
            if fd >= 0:
                self.pids[fd] = pid
                self.poller.register(fd, select.POLLIN)
            self.report(STARTED, desk, pid, 0)
        finally:
            os.close(box_fd)
            os.close(stack_fd)

    def reap(self, pid: int, fd: int) -> None:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done == 0:
            return
        if fd >= 0:
            self.poller.unregister(fd)
            os.close(fd)
            del self.pids[fd]
        self.report(ENDED, self.desks.pop(pid), pid, os.waitstatus_to_exitcode(status))

    def report(self, *what: int) -> None:
        # A parent that has gone is seen by serve().
        with contextlib.suppress(ConnectionError):
            self.link.send(_REPORT.pack(*what))


def _watch(pid: int) -> int:
    """Open a descriptor that tells when a process has ended, or -1."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return -1


def _be_quiet() -> None:
    """Leave the terminal's signals to the parent."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _run_nursery(link: socket.socket, parent: int, start: StartWorker) -> NoReturn:
    status = 1
    try:
        _be_quiet()
        _Nursery(link, parent, start).serve()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _forked_worker(setup: Setup, parent: int, link: socket.socket) -> StartWorker:
    """Make the function that forks a worker."""

    def start(desk: int, box_fd: int, stack_fd: int) -> int:
        me = os.getpid()
        pid = _fork()
        if pid == 0:
            status = 1
            try:
                link.close()
                from pydistrib.pools import worker

                status = worker.run(setup, desk, box_fd, stack_fd, parent, me)
            except BaseException:
                # Not a task's: the worker itself failed, and says why where it can.
                with contextlib.suppress(BaseException):
                    sys.stderr = sys.__stderr__
                    sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        return pid

    return start


def _fork() -> int:
    with warnings.catch_warnings():
        # Of other threads, which this process, a copy, does not have.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# --------------------------------------------------------------------------------------
# The zygote
# --------------------------------------------------------------------------------------


# What workers need, most of it some time: the zygote has it before it forks them.
_PRELOADED: Final = ("cloudpickle", "multiprocessing.pool", "traceback")


def _preload(name: str) -> None:
    """Import a module while nobody waits; a child that can't have it will say so."""
    with contextlib.suppress(Exception):
        importlib.import_module(name)
    # Collecting garbage in a child would touch, and so copy, every page of these.
    gc.collect()
    gc.freeze()


def zygote_main(link_fd: int) -> NoReturn:
    """Make nurseries for one parent process until it ends."""
    from pydistrib.pools import worker  # noqa: F401  (here, so that workers have it)

    _be_quiet()
    link = socket.socket(fileno=link_fd)
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for nurseries
    parent_fd = _watch(parent)
    waits = [link] + ([parent_fd] if parent_fd >= 0 else [])
    unborn = list(_PRELOADED)
    while True:
        ready, _, _ = select.select(waits, [], [], 0 if unborn else None)
        if not ready:
            _preload(unborn.pop(0))
            continue
        if parent_fd in ready:
            os._exit(0)
        try:
            message, fds, _, _ = socket.recv_fds(link, 64, 8)
        except ConnectionError:
            message = b""
        if not message:
            os._exit(0)
        if os.fork() == 0:
            link.close()
            _enter_nursery(parent, *fds)
        for fd in fds:
            os.close(fd)


def _enter_nursery(
    parent: int, link_fd: int, setup_fd: int, board_fd: int, ring_fd: int, *lent: int
) -> NoReturn:
    status = 1
    try:
        link = socket.socket(fileno=link_fd)
        with open(setup_fd, "rb") as file:
            data = file.read()
        world, spawning, pickled = pickle.loads(data)
        _apply_world(world)
        if spawning:
            start = _spawned_worker(parent, board_fd, ring_fd, pickled, lent)
        else:
            setup = _unpickle_setup(pickled, board_fd, ring_fd, lent)
            start = _forked_worker(setup, parent, link)
        _run_nursery(link, parent, start)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _world() -> dict[str, Any]:
    """What a worker is to have as this process has it."""
    from multiprocessing import process

    try:
        directory = os.getcwd()
    except OSError:
        directory = None
    return {
        "path": list(sys.path),
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "directory": directory,
        "authkey": bytes(process.current_process().authkey),
    }


def _apply_world(world: dict[str, Any]) -> None:
    from multiprocessing import process

    sys.path[:] = world["path"]
    sys.argv[:] = world["argv"]
    if dict(os.environ) != world["environment"]:
        os.environ.clear()
        os.environ.update(world["environment"])
    if world["directory"] is not None:
        with contextlib.suppress(OSError):
            os.chdir(world["directory"])
    process.current_process().authkey = world["authkey"]


class Lent:
    """A descriptor that goes to the workers with what was pickled."""

    def __init__(self, place: int) -> None:
        self.place = place

    def detach(self) -> int:
        """Give a copy of the descriptor, in the worker."""
        return os.dup(_lent[self.place])


_lent: tuple[int, ...] = ()


class _Spawning:
    """For multiprocessing's locks and pipes: says that they may be pickled now."""

    DupFd = Lent

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1


def pickle_setup(setup: Setup) -> tuple[bytes, list[int]]:
    """Pickle what workers start with, and the descriptors that belong to it."""
    from multiprocessing import context

    from pydistrib.pools import pickling

    spawning = _Spawning()
    before = context.get_spawning_popen()
    context.set_spawning_popen(spawning)  # type: ignore[arg-type]
    try:
        return pickling.dumps(setup, None), spawning.fds
    finally:
        context.set_spawning_popen(before)


def _unpickle_setup(
    pickled: bytes, board_fd: int, ring_fd: int, lent: tuple[int, ...]
) -> Setup:
    global _lent
    from pydistrib.pools import worker  # noqa: F401  (here, so that workers have it)

    _lent = lent
    setup: Setup = pickle.loads(pickled)
    setup.board_fd, setup.ring_fd = board_fd, ring_fd
    return setup


# --------------------------------------------------------------------------------------
# Spawned workers
# --------------------------------------------------------------------------------------


def _command(call: str) -> list[str]:
    """Give the command line of a fresh interpreter that makes a call in this module."""
    import subprocess

    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from pydistrib.pools import nursery; nursery.{call}"
    )
    return [os.fsdecode(_executable()), *flags, "-c", code]


def _executable() -> str:
    from multiprocessing import spawn

    return os.fsdecode(spawn.get_executable() or sys.executable)


def _spawned_worker(
    parent: int, board_fd: int, ring_fd: int, pickled: bytes, lent: tuple[int, ...]
) -> StartWorker:
    from multiprocessing import process, util

    setup_fd = os.memfd_create("pydistrib-setup")
    with open(os.dup(setup_fd), "wb") as file:
        pickle.dump((pickled, bytes(process.current_process().authkey)), file)
    kept = (setup_fd, board_fd, ring_fd, *lent)

    def start(desk: int, box_fd: int, stack_fd: int) -> int:
        numbers = (parent, os.getpid(), desk, box_fd, stack_fd, *kept)
        return util.spawnv_passfds(
            os.fsencode(_executable()),
            [os.fsencode(word) for word in _command(f"spawned_main{numbers!r}")],
            sorted({box_fd, stack_fd, *kept}),
        )

    return start


def main_data() -> dict[str, Any]:
    """Tell how a worker could import this process's ``__main__``."""
    from multiprocessing import spawn

    keys = ("init_main_from_name", "init_main_from_path")
    data = spawn.get_preparation_data("")
    return {key: data[key] for key in keys if key in data}


def spawned_main(
    parent: int,
    nursery: int,
    desk: int,
    box_fd: int,
    stack_fd: int,
    setup_fd: int,
    board_fd: int,
    ring_fd: int,
    *lent: int,
) -> NoReturn:
    """Be a worker in a fresh interpreter."""
    from multiprocessing import process

    from pydistrib._core import die_with_parent
    from pydistrib.pools import worker

    status = 1
    try:
        if not die_with_parent(nursery):
            os._exit(1)
        with open(f"/proc/self/fd/{setup_fd}", "rb") as file:
            pickled, authkey = pickle.load(file)
        os.close(setup_fd)
        process.current_process().authkey = authkey
        setup = _unpickle_setup(pickled, board_fd, ring_fd, lent)
        status = worker.run(setup, desk, box_fd, stack_fd, parent, nursery)
    except BaseException:
        with contextlib.suppress(BaseException):
            sys.stderr = sys.__stderr__
            sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


# --------------------------------------------------------------------------------------
# In the parent
# --------------------------------------------------------------------------------------

# The parent's ends of all sockets: a forked child must not keep them open.
_links: set[socket.socket] = set()
_zygote: socket.socket | None = None
_zygote_pid = 0
_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _zygote, _zygote_pid, _lock
    _lock = threading.Lock()
    for link in list(_links):
        with contextlib.suppress(OSError):
            link.close()
    _links.clear()
    _zygote, _zygote_pid = None, 0


os.register_at_fork(after_in_child=_after_fork_in_child)


def _start_zygote() -> socket.socket:
    """Start the zygote if there is none.  Under the lock."""
    global _zygote, _zygote_pid
    from multiprocessing import util

    if _zygote is not None:
        return _zygote
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            _zygote_pid = util.spawnv_passfds(
                os.fsencode(_executable()),
                [os.fsencode(w) for w in _command(f"zygote_main({theirs.fileno()})")],
                [theirs.fileno()],
            )
        except BaseException:
            ours.close()
            raise
    _links.add(ours)
    _zygote = ours
    return ours


def _end_zygote() -> None:
    """Close the link to the zygote, which ends it, and wait for that."""
    global _zygote, _zygote_pid
    if _zygote is not None:
        _links.discard(_zygote)
        _zygote.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(_zygote_pid, 0)
    _zygote, _zygote_pid = None, 0


def warm_up() -> None:
    """Start the zygote now, so that the first pool need not wait for it."""
    with _lock:
        _start_zygote()


def _ask_zygote(fds: list[int]) -> None:
    with _lock:
        for attempt in range(2):
            link = _start_zygote()
            try:
                socket.send_fds(link, [b"nursery"], fds)
                return
            except (ConnectionError, BrokenPipeError):
                _end_zygote()  # it was killed: have another
                if attempt == 1:
                    raise


class Nursery:
    """
    The parent's end of a pool's nursery.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    setup : Setup
        What its workers start with.
    """

    def __init__(self, method: str, setup: Setup) -> None:
        self.pid = 0
        self.late: collections.deque[bytes] = collections.deque()  # not sent yet
        self.late_lock = threading.Lock()
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _links.add(self.link)
        try:
            with theirs:
                if method == "fork":
                    self._fork(theirs, setup)
                else:
                    self._ask(theirs, method, setup)
        except BaseException:
            self.close()
            raise
        self.link.setblocking(False)

    def _fork(self, theirs: socket.socket, setup: Setup) -> None:
        parent = os.getpid()
        self.pid = _fork()
        if self.pid == 0:
            # _after_fork_in_child has closed the parent's end.
            _run_nursery(theirs, parent, _forked_worker(setup, parent, theirs))

    def _ask(self, theirs: socket.socket, method: str, setup: Setup) -> None:
        pickled, lent = pickle_setup(setup)
        setup_fd = os.memfd_create("pydistrib-setup")
        with open(setup_fd, "r+b") as file:
            pickle.dump((_world(), method == "spawn", pickled), file)
            file.flush()
            file.seek(0)
            _ask_zygote([theirs.fileno(), setup_fd, setup.board_fd, setup.ring_fd, *lent])

    def fileno(self) -> int:
        return self.link.fileno()

    def start(self, desk: int, box_fd: int, stack_fd: int) -> bool:
        """Ask for a worker; False if that must wait."""
        if not self.send_late():
            return False
        try:
            socket.send_fds(self.link, [_REQUEST.pack(START, desk, 0)], [box_fd, stack_fd])
        except BlockingIOError:
            return False
        return True

    def kill(self, desk: int, number: int) -> None:
        """
        Send a signal to the worker at a desk, unless it has ended.

        It is meant for the one for whom `start` was last called there.  If there is no room
        now, the signal is sent by the next call of `start` or `reports`.
        """
        self.late.append(_REQUEST.pack(KILL, desk, number))
        self.send_late()

    def send_late(self) -> bool:
        """Send the signals for which there was no room; False if there still is none."""
        with self.late_lock:
            while self.late:
                try:
                    self.link.send(self.late[0])
                except BlockingIOError:
                    return False
                except OSError:
                    pass  # the nursery has gone, and its workers with it
                self.late.popleft()
        return True

    def reports(self) -> tuple[list[tuple[int, int, int, int]], bool]:
        """Read what happened: (what, desk, pid, status) each; and if it is still there."""
        found: list[tuple[int, int, int, int]] = []
        self.send_late()
        while True:
            try:
                message = self.link.recv(64)
            except BlockingIOError:
                return found, True
            except ConnectionError:
                return found, False
            if not message:
                return found, False
            found.append(_REPORT.unpack(message))

    def close(self) -> None:
        """End it, and with it the workers there are."""
        _links.discard(self.link)
        self.link.close()
        if self.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
            self.pid = 0

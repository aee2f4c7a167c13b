"""
The engine of process pools.

The table of tasks and the mailboxes of the workers are C and lie in shared memory
(`_core.Board`, `_core.Desk`).  Here is the parent's side::

    user's threads            the pool's thread                    workers
    --------------            -----------------                    -------
    pickle a task, post it --------------------------------------> claim it, run it
                              collect results, settle them <------ give the result
                              post what waited for room
                              note time limits, deaths  <- nursery

Tasks are posted by the thread that has them, without a hop, while there is room in the
table; then they wait in a queue as they are, and are pickled when their turn comes.  A
thread that waits for a result looks for it itself for a while, and settles what else
arrives, as far as that calls nobody's code: then the pool's thread may sleep.

A worker that dies takes down the one task that it has claimed.  The pool's thread reads
what the worker has still sent, and then knows which that is: the task fails, or is posted
again, and the nursery makes another worker.  A time limit, and the cancelling of a task
that runs, are such deaths on purpose: the task is first marked as doomed, so that its
worker can't go on to another one before it is killed.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import heapq
import os
import select
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from typing import Any

from pydistrib import _config
from pydistrib._core import AsyncResult, Board, MapResult, ResultIterator
from pydistrib.errors import TimeoutError
from pydistrib.pools import nursery as nurseries
from pydistrib.pools import pickling
from pydistrib.pools import worker as protocol
from pydistrib.pools.arguments import Retrying
from pydistrib.pools.broken import PoolBroken, WorkerDied
from pydistrib.pools.crew import Worker, await_death, cpu_seconds, kills_for_memory
from pydistrib.pools.engine import Engine, PoolStats, WorkerStats
from pydistrib.pools.failures import unpack_failure
from pydistrib.pools.packing import Packer
from pydistrib.pools.process_tasks import Call, Feeder, Map, Part, Task

SLOTS = 2048  # tasks that are posted and not done; more of them wait as they are
COLLECT = 512  # reports read before others get their turn
STABLE = 1.0  # seconds: a worker that was idle so long and ends is no crash loop
LOAD_SECONDS = 30.0  # in which a task with a time limit has to begin, or its limit
LOOK_SECONDS = 1.0  # between looks for tasks that don't begin
TERM_SECONDS = 0.5  # from SIGTERM to SIGKILL
SPIN = 50e-6  # how long a worker looks for a task before it sleeps
WATCH = 50e-6  # how long the pool's thread looks for a result before it sleeps


class ProcessEngine(Engine):
    """
    Runs tasks in other processes.

    Parameters
    ----------
    workers : int
        How many processes.
    method : str
        How they are started: ``"fork"``, ``"forkserver"`` or ``"spawn"``.
    initializer, initargs
        Each worker first calls ``initializer(*initargs)``.
    max_tasks : int, optional
        After so many tasks a worker is replaced.
    name : str
        Of the workers, before their number.
    """

    def __init__(
        self,
        workers: int,
        method: str,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        max_tasks: int | None = None,
        name: str = "PoolWorker",
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self.workers = workers
        self.method = method
        self.name = name
        self.board = Board(SLOTS, workers)
        self.ring = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Waiting: tasks, results whose call is not pickled yet, iterators of tasks.
        self.waiting: collections.deque[Any] = collections.deque()
        self.setup = protocol.Setup(
            main=nurseries.main_data() if method != "fork" else {},
            board_fd=self.board.fileno(),
            ring_fd=self.ring,
            workers=workers,
            spin=SPIN if _config.cpu_count() > 1 else 0.0,
            name=name,
            max_tasks=max_tasks,
            initializer=initializer,
            initargs=tuple(initargs),
        )
        main_file = getattr(sys.modules.get("__main__"), "__file__", None)
        main = pickling.ForkedMain() if method == "fork" and main_file is not None else None
        self.packer = Packer(self.board, main)

        # Those that are posted once more.  Only who fills touches the head of a queue, so
        # the pool's thread, which has them, can't put them back into `waiting`.
        self.again: collections.deque[Task] = collections.deque()
        self.fill_lock = threading.Lock()
        self.fill_again = False
        self.room = threading.Condition()  # feeders wait for room in the table
        self.feeders: set[Feeder] = set()

        self.limited = False  # there was a task with a time limit
        self.watching = False  # the pool's thread looks for such that don't begin
        self.look_at = 0.0
        self.limits: list[tuple[float, int, Task]] = []  # the pool's thread's, as below
        self.crew: list[Worker | None] = [None] * workers
        self.desks_lock = threading.Lock()  # held to kill a worker, and to bury one
        self.past_tasks = 0
        self.deaths = 0  # since a task was last done
        self.done = 0  # tasks that the board itself had settled by then
        self.restart_at = 0.0
        self.kills = kills_for_memory()

        self.closing = False
        self.terminating = False
        self.closed = False  # the board
        self.broken: BaseException | None = None
        self.over = False
        self.ended = threading.Event()

        try:
            self.nursery = nurseries.Nursery(method, self.setup)
        except BaseException:
            os.close(self.ring)
            raise
        for desk in range(workers):
            self.crew[desk] = self._new_worker(desk)
        self.board.attend(self.ring, (self.waiting, self.again))
        _engines.add(self)
        self.thread = threading.Thread(
            target=_serve, args=(self,), name="pydistrib-pool", daemon=True
        )
        self.thread.start()

    # -- posting -----------------------------------------------------------------------

    def _check(self) -> None:
        if self.broken is not None:
            raise PoolBroken(str(self.broken)) from self.broken
        if self.closing or self.terminating:
            raise ValueError("Pool not running")
        if self.over:
            raise RuntimeError(
                "the pool belongs to the process that made it, and this is a fork"
            )

    def start(self, call: AsyncResult[Any]) -> None:
        """Post a call, or let it wait for room."""
        self._check()
        if not self.waiting:
            task = self._call_task(call)
            if task is None or self._post(task):
                return
            # Rather make room here than have the pool's thread do it in turns with this.
            if self.board.settle() and not self.waiting and self._post(task):
                return
            self.waiting.append(task)
        else:
            self.waiting.append(call)
        self.fill()

    def _call_task(self, call: AsyncResult[Any]) -> Task | None:
        task = Call(self, call)
        taken = call._take(task.cancel, self.board)
        if taken is None:
            return None
        func, args, kwargs = taken
        task.source = (func, (args, kwargs))
        try:
            if type(func) is Retrying:
                task.retries = func.retries
            task.function = self.packer.function(func, None)
            data = self.board.pickle_scalars(args, kwargs)
            if data is not None:
                task.payload = data
            else:
                self.packer.pickle(task, (args, kwargs), None)
        except Exception as error:
            task.settle(False, error)
            return None
        except BaseException as error:
            task.settle(False, error)
            raise
        return task

    def _post(self, task: Task) -> bool:
        posted = self.board.post(task)
        if posted and (task.pieces or type(task.payload) is not bytes):
            self._drop_own(task)
        if posted and task.limit is not None and not self.watching:
            self.limited = self.watching = True
            self.ring_up()
        return posted

    @staticmethod
    def _drop_own(task: Task) -> None:
        """The board keeps the memory now; a task that may come again keeps it too."""
        if not task.retries:
            task.pieces = ()
            task.payload = b""

    def start_map(self, result: MapResult[Any], timeout: float | None = None) -> None:
        """Post the parts of a map, those for which there is no room later."""
        self._check()
        self.waiting.append(Map(self, result, timeout))
        self.fill()

    def start_stream(
        self, stream: ResultIterator[Any], timeout: float | None = None
    ) -> None:
        """Start a thread that advances the stream's input and posts its units."""
        self._check()
        feeder = Feeder(self, stream, timeout)
        self.feeders.add(feeder)
        threading.Thread(target=feeder.run, name="pydistrib-imap", daemon=True).start()

    def feeder_ended(self, feeder: Feeder) -> None:
        self.feeders.discard(feeder)
        if self.closing:
            self.ring_up()

    def post_and_wait(self, task: Task, feeder: Feeder) -> None:
        """Post a unit of a stream, as soon as there is room."""
        while True:
            if self.terminating or self.broken is not None:
                task.settle(False, self.broken or CancelledError("the pool was terminated"))
                return
            if not self.waiting and self._post(task):
                return
            with self.room:
                full = self.waiting or self.board.free == 0
                # Else there is no room for its number behind a task that waits.
                self.room.wait(0.1 if full else 0.001)

    def fill(self) -> None:
        """Post what waits, while there is room.  One thread does it for all."""
        self.fill_again = True
        while self.fill_again and self.fill_lock.acquire(blocking=False):
            try:
                self.fill_again = False
                self._fill_some()
            finally:
                self.fill_lock.release()

    def _fill_some(self) -> None:
        waiting, again = self.waiting, self.again
        while again and self.board.free > 0:
            if not again[0].cancelled and not again[0].settled and not self._post(again[0]):
                return
            again.popleft()
        while waiting and self.board.free > 0:
            item = waiting[0]
            if isinstance(item, Task):
                if not item.cancelled and not item.settled and not self._post(item):
                    return
                waiting.popleft()
            elif isinstance(item, AsyncResult):
                task = self._call_task(item)
                if task is None:
                    waiting.popleft()
                else:
                    waiting[0] = task
            else:
                task = next(item, None)
                if task is None:
                    waiting.popleft()
                elif not self._post(task):
                    waiting.appendleft(task)
                    return

    # -- cancelling --------------------------------------------------------------------

    def cancel(self, task: Task) -> bool:
        """Keep a task from running, or kill the worker that runs it."""
        task.cancelled = True
        if self.board.retract(task) or self._stop(task):
            return True
        if task in self.waiting or task in self.again:
            return True
        task.cancelled = False
        return False

    def _stop(self, task: Task) -> bool:
        # Whoever is at the desk until the lock is released is the one to be killed.
        with self.desks_lock:
            desk = self.board.doom(task)
            if desk < 0:
                return False
            task.settled = True
            worker = self.crew[desk]
            if worker is not None:
                worker.killed = True
                self.nursery.kill(desk, signal.SIGKILL)
        if self.nursery.late:
            self.ring_up()
        return True

    def abandon(self, result: AsyncResult[Any]) -> None:
        """Stop a call or a map, with the workers that run it: it was interrupted."""
        result.cancel()

    def cancel_waiting(self) -> None:
        """Cancel all calls that no worker has begun."""
        self._fail_waiting(CancelledError("the executor was shut down"))

    # -- life --------------------------------------------------------------------------

    def ring_up(self) -> None:
        """Wake the pool's thread."""
        with contextlib.suppress(OSError, ValueError):
            os.eventfd_write(self.ring, 1)

    def close(self) -> None:
        """Take no more tasks; the workers end when all are done."""
        self.closing = True
        for feeder in list(self.feeders):
            feeder.hurry()
        self.ring_up()

    def terminate(self) -> None:
        """Kill the workers; what has no result yet fails with `CancelledError`."""
        self.terminating = True
        self.ring_up()

    def join(self) -> None:
        """Wait until all workers have ended."""
        if self.over:
            return
        self.ended.wait()
        self.thread.join()

    def stats(self) -> PoolStats:
        """Read the counters that the workers keep in the table."""
        rows = []
        for worker in self.crew:
            if worker is None or not worker.asked:
                continue
            tasks, run_ns, _, wait_ns = self.board.desk_info(worker.desk)
            cpu = cpu_seconds(worker._pid)
            rows.append(
                WorkerStats(
                    name=worker.name,
                    tasks=tasks,
                    queue_wait=wait_ns / 1e9 / tasks if tasks else 0.0,
                    run_time=run_ns / 1e9,
                    gil_wait=0.0,
                    cpu_time=cpu,
                    gil_share=None
                    if cpu is None or run_ns == 0
                    else min(1.0, cpu * 1e9 / run_ns),
                )
            )
        done = self.past_tasks + sum(row.tasks for row in rows)
        waiting = len(self.waiting) + len(self.again)
        queued = self.board.slots - self.board.free + waiting
        return PoolStats(done, queued, tuple(rows))

    # -- the pool's thread -------------------------------------------------------------

    def serve(self) -> None:
        poller = select.poll()
        poller.register(self.ring, select.POLLIN)
        poller.register(self.nursery.fileno(), select.POLLIN)
        poll_link = True
        while not self.terminating:
            if self._collect_all():
                self._after_progress()
                continue
            self._close_if_done()
            if self._all_gone():
                return
            self._repopulate()
            if self.setup.spin and self.board.free < SLOTS and self.board.watch(WATCH):
                continue
            self.board.sleep(True)
            if not self._collect_all():
                for fd, _ in poller.poll(self._patience()):
                    if fd != self.ring:
                        poll_link = self._read_nursery()
                        if not poll_link:
                            poller = self._new_nursery(poller)
            self.board.sleep(False)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self.ring)
            self._check_limits()
            self._after_progress()

    def _after_progress(self) -> None:
        if self.nursery.late:
            self.nursery.send_late()
        if self.waiting or self.again:
            self.fill()
        if self.feeders:
            with self.room:
                self.room.notify_all()
        if self.limits or self.limited:
            self._check_limits()

    def _patience(self) -> float | None:
        """How long to sleep, in milliseconds."""
        times = [self.limits[0][0]] if self.limits else []
        self.watching = False
        if self.limited and self.board.free < self.board.slots:
            self.watching = True
            times.append(self.look_at)
        if self.nursery.late or any(w is None or not w.asked for w in self.crew):
            times.append(max(self.restart_at, time.monotonic() + 0.02))
        if not times:
            return None
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1

    def _collect_all(self) -> int:
        count = 0
        for worker in self.crew:
            if worker is not None:
                count += self._collect(worker)
        return count

    def _collect(self, worker: Worker) -> int:
        try:
            settled, events = self.board.collect(worker.desk, COLLECT)
        except Exception:
            # Its mailbox makes no sense, or there is no memory to read it: it has to go.
            if worker.exitcode is None and not worker.killed:
                worker.killed = True
                self.nursery.kill(worker.desk, signal.SIGKILL)
            return 0
        for event in events:
            self._handle(worker, *event)
        return settled + len(events)

    def _handle(
        self, worker: Worker, desk: int, kind: int, task: Any, data: Any, buffers: Any
    ) -> None:
        if kind == protocol.RESULT:
            self.deaths = 0
            try:
                value = pickling.loads(data, buffers=buffers)
            except BaseException as refusal:
                self._settle(task, False, refusal)
            else:
                self._settle(task, True, value)
        elif kind == protocol.ERROR:
            self.deaths = 0
            self._failed(task, data)
        elif kind == protocol.TEXT:
            _print(data)
        elif kind == protocol.BEGUN:
            if task is not None and not task.settled:
                self._begun(task)
        elif kind == protocol.READY:
            worker.ready_at = time.monotonic()
        elif kind == protocol.FAILED:
            try:
                text, error = unpack_failure(data)
            except Exception as refusal:
                text, error = repr(refusal), refusal
            broken = PoolBroken(
                "the initializer of a worker failed, so the pool can't work:\n" + text
            )
            broken.__cause__ = error
            self._break(broken)

    def _settle(self, task: Task, success: bool, value: Any) -> None:
        if task.settled:
            return
        try:
            task.settle(success, value)
        except Exception:
            # Of the pool's own making, or a Future that somebody else has set.
            sys.excepthook(*sys.exc_info())

    def _failed(self, task: Task, data: Any) -> None:
        try:
            _, error = unpack_failure(data)
        except Exception as refusal:
            error = refusal
        if isinstance(error, protocol.Absent) and self._send_itself(task):
            return
        if isinstance(error, protocol.Absent):
            inner = error.args[0] if error.args else error
            inner.__cause__ = error.__cause__
            error = inner
        self._settle(task, False, error)

    def _send_itself(self, task: Task) -> bool:
        """Post a task again whose function or argument the worker could not find."""
        if task.source is None or task.settled:
            return False
        func, what = task.source
        task.source = None  # so that it is done once
        try:
            buffers: list[Any] = []
            with pickling.by_value(func):
                data = pickling.dumps(func, buffers)
                pieces = self.packer.pieces(buffers, None)
                task.function = (
                    next(self.packer.numbers),
                    self.board.pack(data, pieces),
                    None,
                    pieces,
                )
                task.pieces = ()
                buffers = []
                data = pickling.dumps(what, buffers)
            self.packer.place(task, data, buffers, None)
        except Exception:
            return False
        self.again.append(task)
        self.fill()
        return True

    def _begun(self, task: Task) -> None:
        task.begin()
        if task.limit is not None:
            task.begun = True
            entry = (time.monotonic() + task.limit, next(self.packer.numbers), task)
            heapq.heappush(self.limits, entry)

    def _check_limits(self) -> None:
        now = time.monotonic()
        while self.limits and self.limits[0][0] <= now:
            _, _, task = heapq.heappop(self.limits)
            self._time_out(task, f"the task ran for more than {task.limit:g} s")
        if self.limited and now >= self.look_at:
            self.look_at = now + LOOK_SECONDS
            for task in self.board.claimed():
                self._check_begin(task, now)

    def _check_begin(self, task: Task, now: float) -> None:
        """Stop a task that was taken and does not begin: its worker hangs or is stopped."""
        if task.limit is None or task.begun:
            return
        if task.seen is None:
            task.seen = now
        elif now - task.seen > (most := max(task.limit, LOAD_SECONDS)):
            self._time_out(task, f"the task did not begin within {most:g} s")

    def _time_out(self, task: Task, why: str) -> None:
        if not task.settled and self._stop(task):
            task.settled = False
            self._settle(task, False, TimeoutError(why))

    # -- workers -----------------------------------------------------------------------

    def _new_worker(self, desk: int) -> Worker:
        stack_fd = os.memfd_create("pydistrib-stack", os.MFD_CLOEXEC)
        return Worker(desk, f"{self.name}-{desk + 1}", stack_fd)

    def _wanted(self) -> int:
        if not self.closed:
            return self.workers
        return min(self.workers, self.board.slots - self.board.free)

    def _repopulate(self) -> None:
        if self.broken is not None or time.monotonic() < self.restart_at:
            return
        alive = sum(1 for w in self.crew if w is not None and w.asked)
        for desk, worker in enumerate(self.crew):
            if alive >= self._wanted():
                return
            if worker is None or not worker.asked:
                if not self._ask_for(desk, worker):
                    return
                alive += 1

    def _ask_for(self, desk: int, worker: Worker | None) -> bool:
        try:
            if worker is None:
                worker = self.crew[desk] = self._new_worker(desk)
            box_fd = self.board.open_desk(desk)
        except (OSError, MemoryError) as error:
            self._worker_failed(error)
            return False
        # A nursery that is gone is told by its end of the link.
        with contextlib.suppress(OSError):
            worker.asked = self.nursery.start(desk, box_fd, worker._stack_fd)
        if not worker.asked:
            self.board.close_desk(desk)
        return worker.asked

    def _worker_failed(self, why: BaseException) -> None:
        """A worker could not be made, or ended without a task: wait, or give up."""
        if self.done != self.board.settled:
            self.done = self.board.settled
            self.deaths = 0
        self.deaths += 1
        alive = any(w is not None and w.ready_at is not None for w in self.crew)
        if self.deaths > 16 + 2 * self.workers and not alive:
            broken = PoolBroken(
                f"{self.deaths} workers in a row ended before they did any task; the last: "
                f"{why}"
            )
            broken.__cause__ = why
            self._break(broken)
        elif self.deaths > 3:
            wait = 0.01 * 2 ** min(self.deaths - 4, 7)
            self.restart_at = time.monotonic() + min(wait, 1.0)

    def _read_nursery(self) -> bool:
        reports, there = self.nursery.reports()
        for what, desk, pid, status in reports:
            worker = self.crew[desk]
            if worker is None:
                continue
            if what == nurseries.STARTED:
                worker.made(pid)
            elif what == nurseries.REFUSED:
                worker.asked = False
                self.board.close_desk(desk)
                self._worker_failed(OSError(status, os.strerror(status)))
            elif what == nurseries.ENDED:
                self._bury(worker, status)
        return there

    def _bury(self, worker: Worker, exitcode: int) -> None:
        """A worker has ended: read what it has sent, fail what it has not finished."""
        worker.ended(exitcode)
        while self._collect(worker):
            pass
        self.past_tasks += self.board.desk_info(worker.desk)[0]
        with self.desks_lock:
            lost = self.board.close_desk(worker.desk)
            self.crew[worker.desk] = None
        kills = kills_for_memory() if exitcode == -signal.SIGKILL else self.kills
        out_of_memory = kills > self.kills and not worker.killed
        self.kills = kills
        for task in lost:
            if not task.settled:
                self._lost(task, worker, exitcode, out_of_memory)
        if not lost and exitcode != 0:
            if worker.ready_at is not None and time.monotonic() - worker.ready_at > STABLE:
                self.deaths = 0
            died = WorkerDied(
                "no task", worker._pid, exitcode, out_of_memory, worker.stack()
            )
            self._worker_failed(died)
        worker.forget()

    def _lost(self, task: Task, worker: Worker, exitcode: int, out_of_memory: bool) -> None:
        if self.terminating or self.broken is not None:
            self._fail(task, self.broken or CancelledError("the pool was terminated"))
            return
        if task.retries > 0:
            task.retries -= 1
            if task.limit is not None:
                task.set_limit(task.limit)
            self.again.append(task)
            return
        died = WorkerDied(
            task.describe(), worker._pid, exitcode, out_of_memory, worker.stack()
        )
        self._settle(task, False, died)

    def _new_nursery(self, poller: select.poll) -> select.poll:
        """The nursery was killed, and its workers with it: have another."""
        poller.unregister(self.nursery.fileno())
        self.nursery.close()
        for worker in self.crew:
            if worker is not None and worker.asked:
                await_death(worker._pid)
                self._bury(worker, -signal.SIGKILL)
        self._worker_failed(RuntimeError("the process that makes workers was killed"))
        while not self.terminating:
            try:
                self.nursery = nurseries.Nursery(self.method, self.setup)
            except (OSError, MemoryError) as error:
                self._worker_failed(error)
                if self.broken is not None:
                    break
                time.sleep(max(0.0, self.restart_at - time.monotonic()))
            else:
                poller.register(self.nursery.fileno(), select.POLLIN)
                break
        return poller

    # -- the end -----------------------------------------------------------------------

    def _waits(self) -> bool:
        return bool(self.waiting or self.again)

    def _close_if_done(self) -> None:
        if self.closing and not self.closed and not self.feeders and not self._waits():
            self.closed = True
            self.board.close()

    def _all_gone(self) -> bool:
        if not self.closed:
            return False
        if self._waits() or self.board.free < self.board.slots:
            return False
        return all(w is None or not w.asked for w in self.crew)

    def _break(self, why: BaseException) -> None:
        """The pool can't go on: everything fails."""
        if self.broken is None:
            self.broken = why
            self._fail_all(why)

    def _fail_all(self, why: BaseException) -> None:
        for feeder in list(self.feeders):
            feeder.stop(why)
        with self.room:
            self.room.notify_all()
        self._fail_waiting(why)

    def _fail_waiting(self, why: BaseException) -> None:
        with self.fill_lock:
            items = [*self.again, *self.waiting]
            self.again.clear()
            self.waiting.clear()
        for item in items:
            if isinstance(item, Task):
                self._fail(item, why)
            elif isinstance(item, AsyncResult):
                item._fail(why)
            else:
                item.fail(why)
        for task in self.board.clear():
            self._fail(task, why)

    def _fail(self, task: Task, why: BaseException) -> None:
        if task.settled:
            return
        task.settled = True
        if isinstance(task, Call):
            task.result._fail(why)
        elif isinstance(task, Part):
            task.group.fail(why)
        else:
            task.settle(False, why)

    def end(self) -> None:
        """Let go of everything; the last thing that the pool's thread does."""
        why: BaseException = self.broken or CancelledError("the pool was terminated")
        self._fail_all(why)
        self._kill_workers()
        self.nursery.close()
        for worker in self.crew:
            if worker is not None and worker.asked:
                await_death(worker._pid)
                worker.ended(-signal.SIGKILL)
                while self._collect(worker):
                    pass
                for task in self.board.close_desk(worker.desk):
                    self._fail(task, why)
        for worker in self.crew:
            if worker is not None:
                worker.ended(worker.exitcode if worker.exitcode is not None else -9)
                worker.forget()
        self._fail_all(why)
        self.packer.functions.clear()
        ring, self.ring = self.ring, -1
        os.close(ring)

    def _kill_workers(self) -> None:
        alive = [w for w in self.crew if w is not None and w.asked]
        for worker in alive:
            worker.killed = True
            self.nursery.kill(worker.desk, signal.SIGTERM)
        end = time.monotonic() + TERM_SECONDS
        while any(w in self.crew for w in alive) and time.monotonic() < end:
            left = max(0.0, end - time.monotonic())
            if select.select([self.nursery], [], [], left)[0] and not self._read_nursery():
                return


def _serve(engine: ProcessEngine) -> None:
    try:
        engine.serve()
    except BaseException as error:
        broken = PoolBroken(f"the pool's own thread failed: {error!r}")
        broken.__cause__ = error
        engine.broken = broken
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        engine.terminating = True
        try:
            engine.end()
        finally:
            engine.ended.set()


def _print(data: bytes) -> None:
    """Print what a worker has printed."""
    stream = sys.stdout if data[0] == 1 else sys.stderr
    if stream is None:
        return
    with contextlib.suppress(Exception):
        stream.write(data[1:].decode("utf-8", "replace"))
        stream.flush()


_engines: weakref.WeakSet[ProcessEngine] = weakref.WeakSet()


def _lose(result: AsyncResult[Any], why: BaseException) -> None:
    """Fail a call of the parent's in its fork: the parent calls back, and this does not."""
    future = result._future
    if future is not None:
        # Another thread may have had the lock, and is not here.
        future._condition = threading.Condition()
        future._done_callbacks.clear()
        future._waiters.clear()
    result._fail(why)


def _lose_task(engine: ProcessEngine, task: Task, why: BaseException) -> None:
    if isinstance(task, Call):
        task.settled = True
        _lose(task.result, why)
    else:
        engine._fail(task, why)


def _after_fork_in_child() -> None:
    lost = RuntimeError("the task was the parent process's; this process was forked")
    for engine in list(_engines):
        engine.over = True
        engine.fill_lock = threading.Lock()
        engine.room = threading.Condition()
        engine.desks_lock = threading.Lock()
        items = [*engine.again, *engine.waiting]
        engine.again.clear()
        engine.waiting.clear()
        for item in items:
            if isinstance(item, AsyncResult):
                _lose(item, lost)
            elif isinstance(item, Task):
                _lose_task(engine, item, lost)
            else:
                item.fail(lost)
        for task in engine.board.abandon():
            _lose_task(engine, task, lost)
        for feeder in engine.feeders:
            feeder.abandon(lost)
    _engines.clear()


def _drop_pools() -> None:
    engines = list(_engines)
    for engine in engines:
        engine.terminate()
    for engine in engines:
        engine.ended.wait(5)
    nurseries._end_zygote()


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_drop_pools)

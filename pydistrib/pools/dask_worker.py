"""
What a Dask worker runs for `DaskPool`, and the form in which calls and results travel.

A Dask task is a *parcel* of one or more calls.  Its calls and results are pickled here, one
by one, and not by Dask: so a value that can't be pickled is an error of its own call, small
calls share the price of a task, and arrays travel beside the pickle::

    client                                worker
    pack() --> parcel, shared arrays -->  run_parcel() --> a thread runs the calls
    unpack_report() <-- outcomes, buffers <-----------------+

Workers that are threads of this very process get the calls as they are: nothing is
pickled, and tasks and results are the caller's own objects, as in a `ThreadPool`.

The calls of a parcel run in a thread of their own, while the thread that Dask gave waits:
it can leave a call behind that is past its time limit or was cancelled, and so gives the
worker back even if the call never ends.

Nothing here imports Dask when it is imported.
"""

from __future__ import annotations

import contextvars
import ctypes
import io
import itertools
import pickle
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.pool import MaybeEncodingError, RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pydistrib import _config
from pydistrib.errors import TimeoutError
from pydistrib.pools.engine import run_chunk

# Arrays from this size on travel beside the pickle.
BIG: Final = 16 << 10

# A parcel that took longer than this returns the calls that it has not begun.
_PATIENCE: Final = 0.5

# How often the waiting thread looks whether the parcel is still wanted.
LOOK: Final = 0.2

# Outcomes of a call.
DONE, FAILED, UNKNOWN = "done", "failed", "unknown"

# What is asked for: one call, a call for each item, a call with the parts of each item.
CALL, MAP, STARMAP = "call", "map", "starmap"


class Packed(NamedTuple):
    """One call of a parcel: what to do, the function's place, arguments, time limit."""

    kind: str
    function: int
    data: bytes
    timeout: float | None


class Lent(NamedTuple):
    """One call of a parcel for a worker in this process."""

    kind: str
    function: Callable[..., Any]
    data: Any
    timeout: float | None


class Outcome(NamedTuple):
    """
    How a call ended: a pickled value or error, and how many buffers belong to it.

    With a `Lent` call it is the value or error itself.
    """

    status: str
    data: Any
    buffers: int
    seconds: float


class Report(NamedTuple):
    """What a parcel came to; `lent` tells of what kind its calls were."""

    worker: str
    lent: bool
    cpu_seconds: float
    outcomes: list[Outcome]
    buffers: list[NDArray[np.uint8]]


# --------------------------------------------------------------------------------------
# Pickling
# --------------------------------------------------------------------------------------

# Gives the place of an object that travels beside the pickle, or None.
Aside = Callable[[Any], Any]


class _Pickler(pickle.Pickler):
    def __init__(self, buffer: io.BytesIO, aside: Aside) -> None:
        super().__init__(buffer, 5)
        self._aside = aside

    def persistent_id(self, obj: Any) -> Any:
        return self._aside(obj)


def pack(value: object, aside: Aside, by_value: frozenset[str]) -> bytes:
    """
    Pickle a value; with cloudpickle where pickle can't, or where that would not help.

    Parameters
    ----------
    value : object
        What is to travel.
    aside : callable
        Called with every object in it; what it returns stands for the object.
    by_value : frozenset of str
        Modules that the workers don't have: their functions and classes travel whole.

    Returns
    -------
    bytes
        For `unpack`.

    Raises
    ------
    Exception
        What cloudpickle raises if it cannot pickle the value either.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, aside).dump(value)
    except Exception:
        pass
    else:
        text = buffer.getvalue()
        if not any(name.encode() in text for name in by_value):
            return text
    return _pack_whole(value, aside, by_value)


def _pack_whole(value: object, aside: Aside, by_value: frozenset[str]) -> bytes:
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, obj: Any) -> Any:
            return aside(obj)

    buffer = io.BytesIO()
    registered = cloudpickle.list_registry_pickle_by_value()
    modules = [
        sys.modules[name]
        for name in by_value
        if name in sys.modules and name != "__main__" and name not in registered
    ]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        Pickler(buffer, 5).dump(value)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
    return buffer.getvalue()


class MissingModule(Exception):
    """A function or class is not to be found here; the argument is its module's name."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: Any, shared: tuple[Any, ...]) -> None:
        super().__init__(io.BytesIO(data))
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]

    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError) as error:
            raise MissingModule(module, str(error)) from error


def unpack(data: Any, shared: tuple[Any, ...]) -> Any:
    """Undo `pack`; raise `MissingModule` where a function or class is not known here."""
    return _Unpickler(data, shared).load()


def _pack_result(value: object, buffers: list[NDArray[np.uint8]]) -> bytes:
    """Pickle a result; what is big goes to `buffers`, uncopied."""
    own: list[NDArray[np.uint8]] = []

    def put_aside(buffer: pickle.PickleBuffer) -> bool:
        with buffer.raw() as raw:
            if raw.nbytes < BIG:
                return True
        own.append(np.frombuffer(buffer.raw(), np.uint8))
        return False

    try:
        data = pickle.dumps(value, 5, buffer_callback=put_aside)
        if b"__main__" in data:
            raise pickle.PicklingError("it is not known elsewhere")
    except Exception:
        import cloudpickle

        own.clear()
        data = cloudpickle.dumps(value, 5, buffer_callback=put_aside)
    buffers += own
    return data


def _pack_error(error: BaseException) -> bytes:
    text = _text_of(error)
    error.__traceback__ = None
    try:
        data = _pack_result((error, text), [])
        pickle.loads(data)
    except Exception as reason:
        stand_in = MaybeEncodingError(_brief(reason), _brief(error))
        data = pickle.dumps((stand_in, text), 5)
    return data


def _text_of(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, error.__traceback__)
    except Exception:  # its text can't be made
        lines = [*traceback.format_tb(error.__traceback__), type(error).__qualname__]
    return "".join(lines)


def _brief(error: BaseException) -> str:
    """Name an error that may not be able to do so itself."""
    try:
        return repr(error)
    except Exception:
        return f"<{type(error).__qualname__} whose repr() fails>"


def unpack_outcome(outcome: Outcome, buffers: list[NDArray[np.uint8]]) -> Any:
    """
    Give a call's value, or its error with the worker's traceback as its cause.

    Parameters
    ----------
    outcome : Outcome
        DONE or FAILED.
    buffers : list of ndarray of uint8
        The outcome's own.

    Returns
    -------
    object
        The value; the exception, not raised, if the call failed.
    """
    # Arrays that came in read-only memory would be read-only themselves.
    own = [buffer if buffer.flags.writeable else buffer.copy() for buffer in buffers]
    value = pickle.loads(outcome.data, buffers=own)
    if outcome.status == DONE:
        return value
    error, text = value
    error.__cause__ = RemoteTraceback(text)
    return error


# --------------------------------------------------------------------------------------
# The worker
# --------------------------------------------------------------------------------------

_in_a_task = threading.local()


def in_a_task(pool: str) -> bool:
    """Tell whether this thread runs a call of the pool of that name."""
    return getattr(_in_a_task, "pool", None) == pool


@dataclass
class _Run:
    """The calls of a parcel while they run; `lock` guards all but what is never changed."""

    pool: str
    functions: list[bytes]
    calls: Sequence[Packed | Lent]
    shared: tuple[Any, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)
    outcomes: list[Outcome] = field(default_factory=list)
    buffers: list[NDArray[np.uint8]] = field(default_factory=list)
    # When the present call began.
    begun: float = field(default_factory=time.monotonic)
    left: bool = False  # nobody waits any more: the thread was left behind
    cpu_seconds: float = 0.0

    def run(self) -> None:
        """Run the calls one after the other, in the parcel's own thread."""
        _in_a_task.pool = self.pool
        try:
            self._run_all()
        except TimeoutError:
            if not self.left:  # else it is the limit's, that came after the call
                raise

    def _run_all(self) -> None:
        start = time.monotonic()
        for call in self.calls:
            outcome, buffers = self._run_call(call)
            with self.lock:
                if self.left:
                    return
                self.outcomes.append(outcome)
                self.buffers += buffers
                self.begun = time.monotonic()
                if self.begun - start > _PATIENCE:
                    break
        self.cpu_seconds = time.thread_time()
        self.done.set()

    def _run_call(self, call: Packed | Lent) -> tuple[Outcome, list[NDArray[np.uint8]]]:
        buffers: list[NDArray[np.uint8]] = []
        start = time.perf_counter()
        seconds = 0.0
        try:
            if isinstance(call, Lent):
                function, data = call.function, call.data
            else:
                function = unpack(self.functions[call.function], self.shared)
                data = unpack(call.data, self.shared)
            start = time.perf_counter()
            value = _call(call.kind, function, data)
            seconds = time.perf_counter() - start
            result = value if isinstance(call, Lent) else _encode(value, buffers)
        except MissingModule as error:
            return Outcome(UNKNOWN, pickle.dumps(error.args), 0, 0.0), []
        except BaseException as error:
            seconds = seconds or time.perf_counter() - start
            failure = error if isinstance(call, Lent) else _pack_error(error)
            return Outcome(FAILED, failure, 0, seconds), []
        return Outcome(DONE, result, len(buffers), seconds), buffers

    def overdue(self) -> float | None:
        """Give the seconds that the present call may still run; None if it may for ever."""
        with self.lock:
            at = len(self.outcomes)
            if at == len(self.calls) or self.calls[at].timeout is None:
                return None
            return self.begun + (self.calls[at].timeout or 0.0) - time.monotonic()

    def expire(self) -> bool:
        """End the present call if it is past its limit: True if it was left behind."""
        with self.lock:
            at = len(self.outcomes)
            limit = self.calls[at].timeout if at < len(self.calls) else None
            if limit is None or time.monotonic() < self.begun + limit:
                return False
            self.left = True
            error = TimeoutError(f"the task ran for more than {limit:g} s")
            lent = isinstance(self.calls[at], Lent)
            data = error if lent else _pack_error(error)
            self.outcomes.append(Outcome(FAILED, data, 0, limit))
            return True

    def leave(self) -> None:
        """Leave the thread behind, whatever it does."""
        with self.lock:
            self.left = True


def _call(kind: str, function: Any, data: Any) -> Any:
    if kind == CALL:
        args, kwargs = data
        return function(*args, **kwargs)
    return run_chunk(function, data, kind == STARMAP)


def _encode(value: object, buffers: list[NDArray[np.uint8]]) -> bytes:
    try:
        return _pack_result(value, buffers)
    except Exception as error:
        raise MaybeEncodingError(error, value) from None


# Parcels for workers in this process, by their numbers.
_lent: dict[int, list[Lent]] = {}
_numbers = itertools.count()


def lend(calls: list[Lent]) -> int:
    """Keep the calls of a parcel for a worker in this process; give their number."""
    number = next(_numbers)
    _lent[number] = calls
    return number


def take_back(number: int) -> None:
    """Forget the calls of a parcel, which has been done or is not wanted."""
    _lent.pop(number, []).clear()  # the worker has the same list


def run_parcel(pool: str, payload: Any, *shared: Any) -> Report:
    """
    Run the calls of a parcel on this worker.

    Parameters
    ----------
    pool : str
        Name of the pool.
    payload : bytes or ndarray of uint8, or int
        Pickled: a list of functions and a list of `Packed`; or what `lend` gave.
    *shared : object
        What travelled aside.

    Returns
    -------
    Report
        The outcomes of the first calls of the parcel, at least of one.
    """
    from distributed import get_worker

    lent = isinstance(payload, int)
    functions, calls = ([], _lent[payload]) if lent else pickle.loads(payload)
    run = _Run(pool, functions, calls, shared)
    worker = get_worker()
    context = contextvars.copy_context()
    with _dask_thread() as enter:

        def work() -> None:
            enter()
            _config.enter_pool(worker.state.nthreads, worker.state.nthreads)
            run.run()

        thread = threading.Thread(
            target=context.run, args=(work,), name="pydistrib-parcel", daemon=True
        )
        thread.start()
        _wait(run, thread, worker)
    return Report(worker.address, lent, run.cpu_seconds, run.outcomes, run.buffers)


def _wait(run: _Run, thread: threading.Thread, worker: Any) -> None:
    from distributed.utils import thread_state  # type: ignore[attr-defined]

    key = thread_state.key
    while True:
        left = run.overdue()
        if run.done.wait(LOOK if left is None else max(0.0, min(left, LOOK))):
            return
        if run.expire():
            _raise_in(thread, TimeoutError)
            return
        if not _wanted(worker, key):
            run.leave()
            _raise_in(thread, SystemExit)
            return


def _wanted(worker: Any, key: Any) -> bool:
    task = worker.state.tasks.get(key)
    return (
        task is not None
        and task.state != "cancelled"
        and worker.status.name not in ("closing", "closed", "failed")
    )


def _raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an exception in a thread, as soon as it runs Python code."""
    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident), ctypes.py_object(error)
        )


class _Executor:
    """
    Dask's pool of threads, as the stand-in of one of its threads sees it.

    When the stand-in secedes, the thread that it stands in for leaves the pool.
    """

    def __init__(self, executor: Any, thread: threading.Thread) -> None:
        self._executor = executor
        self._thread = thread
        self.seceded = False

    @property
    def _threads(self) -> Self:
        return self

    def remove(self, _: threading.Thread) -> None:
        self._executor._threads.remove(self._thread)
        self.seceded = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)


@contextmanager
def _dask_thread() -> Iterator[Callable[[], None]]:
    """
    Let another thread stand in for this one of Dask's pool.

    It has to call what this gives first.  Then `get_worker`, `get_client` and `secede`
    work in it as they do in Dask's own threads.
    """
    from distributed import threadpoolexecutor as pool
    from distributed import utils

    me = threading.current_thread()
    stand_in: list[threading.Thread] = []
    task_states: Any = utils.thread_state  # type: ignore[attr-defined]
    task_state, pool_state = dict(vars(task_states)), dict(vars(pool.thread_state))
    executor = pool_state.get("executor")
    view = pool_state["executor"] = _Executor(executor, me)

    def enter() -> None:
        vars(task_states).update(task_state)
        vars(pool.thread_state).update(pool_state)
        stand_in.append(threading.current_thread())

    yield enter
    if not view.seceded or executor is None:
        return
    with pool.threads_lock:
        rejoined = stand_in[0] in executor._threads
        if rejoined:
            executor._threads.remove(stand_in[0])
            executor._threads.add(me)
    if not rejoined:
        pool.thread_state.proceed = False  # another thread has taken this one's place


# --------------------------------------------------------------------------------------
# Who is there
# --------------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Tell the versions that have to agree between the client and its workers."""
    import cloudpickle
    import distributed

    import pydistrib

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "pydistrib": pydistrib.__version__,
        "distributed": str(distributed.__version__),  # type: ignore[attr-defined]
        "cloudpickle": str(cloudpickle.__version__).split(".")[0],
        "NumPy": np.__version__.split(".")[0],
    }

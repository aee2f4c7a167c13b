"""
The cluster behind a `DaskPool`: started or connected to, fit for its use, watched.

Dask is imported by those who make a `DaskPool`.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from pydistrib.pools import dask_worker as wire

if TYPE_CHECKING:
    from pydistrib.pools.dask_engine import DaskEngine

INSTALL: Final = "pip install 'pydistrib[dask]'"


class ClusterError(RuntimeError):
    """The cluster is gone or not fit for what was asked of it; the text says what to do."""


class WorkerLostWarning(RuntimeWarning):
    """A worker of the cluster was lost; its tasks are run again by others."""


def import_distributed() -> Any:
    try:
        import distributed
    except ImportError as error:
        raise ImportError(f"DaskPool needs dask.distributed: {INSTALL}") from error
    return distributed


def start_cluster(distributed: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Start a cluster of this machine, and a client of it."""
    settings = {"dashboard_address": "localhost:0", "scheduler_port": 0, **options}
    try:
        cluster = distributed.LocalCluster(**settings)
    except (RuntimeError, OSError) as error:
        if _is_port_in_use(error):
            raise ClusterError(
                f"a port is in use ({_root(error)}): leave scheduler_port out, then a free "
                "one is taken"
            ) from error
        raise ClusterError(f"the local cluster did not start: {_root(error)}") from error
    try:
        return distributed.Client(cluster, set_as_default=False), cluster
    except BaseException:
        cluster.close()
        raise


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_port_in_use(error: BaseException) -> bool:
    root = _root(error)
    return isinstance(root, OSError) and "in use" in str(root).lower()


def connect(distributed: Any, address: str) -> Any:
    try:
        return distributed.Client(address, set_as_default=False)
    except OSError as error:
        raise ClusterError(
            f"there is no Dask scheduler at {address}: start one with 'dask scheduler'"
        ) from error


# Travels by value, to places where pydistrib may be missing.
_PROBE: Final = """
def probe():
    try:
        from pydistrib.pools.dask_worker import versions
        return versions()
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)
"""


def check_versions(client: Any) -> None:
    """Raise `ClusterError` if a worker can't run what this process sends."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(_PROBE, namespace)
    answers = client.run(namespace["probe"], on_error="return")
    here = wire.versions()
    for worker, there in sorted(answers.items()):
        if not isinstance(there, dict):
            raise ClusterError(
                f"pydistrib cannot be imported on the worker {worker} ({there}): install "
                f"it there, {INSTALL}"
            )
        for name, version in here.items():
            if there.get(name) != version:
                raise ClusterError(
                    f"the worker {worker} has {name} {there.get(name)}, and this process "
                    f"has {name} {version}: install the same version on both"
                )


def explain_error(error: BaseException) -> BaseException:
    """Say what to do about an error that Dask gave."""
    if isinstance(error, ModuleNotFoundError) and "pydistrib" in str(error):
        explained = ClusterError(
            f"pydistrib is not installed where the scheduler or a worker runs ({error}): "
            f"{INSTALL} there"
        )
        explained.__cause__ = error
        return explained
    cause = error.__cause__
    if isinstance(error, RuntimeError) and isinstance(cause, ModuleNotFoundError):
        return explain_error(cause)
    return error


def listen(client: Any, engine: DaskEngine, address: str) -> Any:
    """
    Have an engine told of what becomes of a worker; gives what `unlisten` needs.

    Not of all workers by one topic: some events of that one can't be sent, and Dask then
    closes the connection.
    """
    weak = weakref.ref(engine)
    before = client._event_handlers.get(address)

    def handler(event: Any) -> Any:
        listener = weak()
        if listener is not None:
            listener.worker_event(address, event)
        return None if before is None else before(event)

    client.subscribe_topic(address, handler)
    return handler, None if before is _ignore else before


def _ignore(_: Any) -> None:
    """Stand in for the handler of a pool that has ended: events may still come."""


def unlisten(client: Any, address: str, listening: Any) -> None:
    handler, before = listening
    handlers = client._event_handlers
    if client.status != "running" or handlers.get(address) is not handler:
        return
    handlers[address] = _ignore if before is None else before
    if before is None:
        client.unsubscribe_topic(address)

"""
A Dask cluster as a pool: `DaskPool`.

How it runs tasks is the engine's matter (`dask_engine`).
"""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from pydistrib._core import AsyncResult
from pydistrib.pools.dask_cluster import (
    ClusterError,
    WorkerLostWarning,
    check_versions,
    connect,
    import_distributed,
    start_cluster,
)
from pydistrib.pools.dask_data import Scattered
from pydistrib.pools.dask_engine import DaskEngine
from pydistrib.pools.protocol import PoolBase

_LOGGER = logging.getLogger("pydistrib")

__all__ = ["ClusterError", "DaskPool", "Scattered", "WorkerLostWarning"]


class DaskPool(PoolBase):
    """
    A Dask cluster with the methods of a pool.

    Parameters
    ----------
    client : distributed.Client, str or None, optional
        A client, or the address of a scheduler.  Without it a cluster of this machine is
        started, on free ports, and closed when the pool ends.
    **cluster_options
        Without `client`: what `distributed.LocalCluster` takes, such as ``n_workers``,
        ``threads_per_worker``, ``processes`` and ``memory_limit``.

    Raises
    ------
    ImportError
        If Dask is not installed: ``pip install 'pydistrib[dask]'``.
    ClusterError
        If there is no scheduler at that address, a port is in use, or a worker lacks
        pydistrib or has another version of it or of Python.
    TypeError
        If `client` is something else, or both it and options were given.

    See Also
    --------
    ThreadPool : The same methods on threads of this process.

    Notes
    -----
    - Functions and arguments are pickled; lambdas, closures and what is defined in
      ``__main__``, or in a module that the workers don't have, travel by value.
      Workers that are threads of this process get them as they are.
    - Calls wait in this process, and few of them, in *parcels*, with Dask: at most twice
      as many as the workers have threads.  Short calls share a parcel.
    - An array of at least 16 KB that several calls get is sent once to each worker that
      needs it, and is read-only there.  One of less than 1 MB that calls get as an
      argument of their own is known as such from the second of them on.
    - ``imap`` and ``imap_unordered`` take no more than 4096 items ahead, or `buffersize`.
    - When a worker is lost, its calls run again on another, so a call may run more than
      once; a `WorkerLostWarning` tells of it.
    - What is abandoned (Ctrl-C in `map`, a closed iterator, `terminate`, a time limit) is
      stopped on the workers as soon as it runs Python code; the worker is free at once.
    - A call that a task of the pool makes itself, which is possible with worker threads
      of this process, runs at once in that task.
    - In a task `num_threads()` is 1, unless ``PYDISTRIB_NUM_THREADS`` or
      `set_num_threads` says more on the worker: that, divided by its threads.

    In a script, make the pool under ``if __name__ == "__main__":``, as with every pool of
    processes.

    Examples
    --------
    >>> from pydistrib import DaskPool
    >>> with DaskPool(processes=False) as pool:  # doctest: +SKIP
    ...     pool.map(abs, [-1, 2, -3])
    [1, 2, 3]
    """

    def __init__(self, client: Any = None, **cluster_options: Any) -> None:
        distributed = import_distributed()
        cluster = None
        own = client is None or isinstance(client, str)
        if client is not None and cluster_options:
            raise TypeError(
                f"{', '.join(cluster_options)}: options are for a cluster that the pool "
                "starts, and cannot be given with a client"
            )
        if client is None:
            client, cluster = start_cluster(distributed, cluster_options)
        elif isinstance(client, str):
            client = connect(distributed, client)
        elif not isinstance(client, distributed.Client):
            raise TypeError(
                "client must be a distributed.Client, the address of a scheduler or None, "
                f"not {type(client).__name__}"
            )
        elif client.asynchronous:
            raise TypeError(
                "client is asynchronous: a DaskPool needs Client(asynchronous=False)"
            )
        if client.status != "running":
            raise ClusterError("the Dask client was closed: make a new one")
        self.client = client
        end = functools.partial(_close, client if own else None, cluster)
        try:
            check_versions(client)
            super().__init__(DaskEngine(client, end, cluster is not None))
        except BaseException:
            end()
            raise

    def scatter(self, data: Any, *, broadcast: bool = False) -> Any:
        """
        Send data to the workers, for tasks to come.

        Parameters
        ----------
        data : object, list, tuple or dict
            What to send; of a list, tuple or dict every item, or value, by itself.  It
            must not be changed any more.
        broadcast : bool, optional
            Send it to all workers now, instead of to one, from which others get it.

        Returns
        -------
        Scattered, list, tuple or dict
            What stands for the data in the arguments of tasks.

        Raises
        ------
        ValueError
            If the pool is closed.
        ClusterError
            If the cluster is gone.

        See Also
        --------
        gather : Results of many tasks.

        Notes
        -----
        Arrays need no scattering: see the notes of the class.
        """
        self._check_running()
        if isinstance(data, Mapping):
            return {key: self._scatter(value, broadcast) for key, value in data.items()}
        if type(data) in (list, tuple, set, frozenset):
            return type(data)([self._scatter(value, broadcast) for value in data])
        return self._scatter(data, broadcast)

    def _scatter(self, value: Any, broadcast: bool) -> Scattered:
        assert isinstance(self._engine, DaskEngine)
        trouble = self._engine.trouble()
        if trouble is not None:
            raise trouble
        scattered = Scattered(value)
        sent = value
        if type(value) is np.ndarray:
            sent = value.view()
            sent.flags.writeable = False
        scattered._future = self._engine.scatter(sent, broadcast)
        return scattered

    def gather(self, futures: Any, timeout: float | None = None) -> Any:
        """
        Wait for results, and return them in the form in which they were asked for.

        Parameters
        ----------
        futures : Future, AsyncResult, Scattered, or list, tuple, set, dict or iterator
            What `submit`, `apply_async`, `scatter` or Dask itself returned, nested in any
            way.
        timeout : float, optional
            Seconds that all of it may take.

        Returns
        -------
        object
            The results; of an iterator as a list.

        Raises
        ------
        Exception
            What the first failing task raised.
        TimeoutError
            If not all results came in time.

        See Also
        --------
        as_completed : Results one by one, in the order in which they are done.
        """
        end = None if timeout is None else time.monotonic() + timeout
        return self._gather(futures, end)

    def _gather(self, what: Any, end: float | None) -> Any:
        left = None if end is None else max(0.0, end - time.monotonic())
        if isinstance(what, AsyncResult):
            return what.get(left)
        if isinstance(what, concurrent.futures.Future | Scattered) or (
            type(what).__module__.startswith("distributed.")
        ):
            return what.result(timeout=left)
        if isinstance(what, Mapping):
            return {key: self._gather(value, end) for key, value in what.items()}
        if isinstance(what, tuple | set | frozenset):
            return type(what)([self._gather(value, end) for value in what])
        if isinstance(what, list | Iterator):
            return [self._gather(value, end) for value in what]
        if isinstance(what, Iterable) and not isinstance(what, str | bytes | np.ndarray):
            return [self._gather(value, end) for value in what]
        return what


def _close(client: Any, cluster: Any) -> None:
    """Close what belongs to a pool."""
    for part in (client, cluster):
        if part is not None:
            try:
                part.close()
            except Exception as error:
                _LOGGER.debug("while closing %r: %s", part, error)

"""DaskPool on real clusters: what is its own, and what goes wrong on a cluster."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import pydistrib
from pydistrib import ClusterError, DaskPool, WorkerLostWarning

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

# What clusters log and warn of when they are ended with tasks on their way is theirs.
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(180),
]


@pytest.fixture(autouse=True)
def nothing_left():
    """Clusters leave threads that end in their own time: not looked at here."""


@contextlib.contextmanager
def cluster(workers=2, threads=1, processes=True, **options):
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            processes=processes,
            dashboard_address="localhost:0",
            **options,
        ) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client():
    with cluster() as client:
        yield client


@pytest.fixture
def pool(client):
    with DaskPool(client) as pool:
        yield pool


def pids(client):
    return sorted(client.run(os.getpid).values())


def nap(x, seconds=0.05):
    time.sleep(seconds)
    return x * x


def absolute_distance(a, b):
    return abs(a - b)


def slow_distance(a, b):
    return float(str(abs(a - b)))


def gaussian(a, b):
    return np.exp(-0.5 * ((a - b) ** 2).sum())


def total(array, i):
    return float(array.sum()) + i


def kill_later(pid, seconds):
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
    timer.start()
    return timer


class TestPost:
    """The post's cells, with only the import changed."""

    def test_submit_and_as_completed(self, client):
        def f(x):
            time.sleep(0.05)
            return x, np.random.default_rng().normal()

        with DaskPool(client) as pool:
            wrapper = functools.partial(pool.submit, f)
            results = [wrapper(i) for i in range(5)]
            seen = {future.result()[0] for future in pool.as_completed(results)}
            assert seen == set(range(5))
            assert {f.result()[0] for f in concurrent.futures.as_completed(results)} == seen

    def test_kernel_by_rows(self, pool):
        def worker_dask(alpha_element, beta, m, distance_function):
            output = np.full(m, 0.0)
            for j in range(m):
                output[j] = distance_function(alpha_element, beta[j])
            return output.reshape(-1)

        rng = np.random.default_rng(0)
        alpha, beta = rng.random(20), rng.random(30)
        cov = np.full((20, 30), None)
        scattered = pool.scatter(beta)
        futures = [
            pool.submit(worker_dask, alpha[i], scattered, 30, absolute_distance)
            for i in range(20)
        ]
        for i, row in enumerate(pool.gather(futures)):
            cov[i, :] = row
        expected = abs(alpha[:, None] - beta).astype(np.float32).round(3)
        assert (cov.astype(np.float32).round(3) == expected).all()


class TestScatterAndGather:
    def test_scattered_data_takes_its_place_anywhere(self, pool):
        data = pool.scatter({"a": [1, 2], "b": np.arange(5)})
        assert pool.apply(lambda x: x["k"][0], ({"k": [data["a"]]},)) == [1, 2]
        assert pool.apply(np.sum, (data["b"],)) == 10
        assert pool.apply(np.sum, (pool.scatter(np.arange(4), broadcast=True),)) == 6
        assert pool.gather(data["a"]) == [1, 2]
        assert [type(x).__name__ for x in pool.scatter([1, 2])] == ["Scattered"] * 2

    def test_gather_keeps_the_form(self, pool):
        futures = {"x": [pool.submit(nap, 2)], "y": (pool.apply_async(nap, (3,)),)}
        assert pool.gather(futures) == {"x": [4], "y": (9,)}
        assert pool.gather(pool.submit(nap, i) for i in range(3)) == [0, 1, 4]
        with pytest.raises((TimeoutError, pydistrib.TimeoutError)):
            pool.gather([pool.submit(time.sleep, 1)], timeout=0.1)

    def test_futures_of_dask_are_arguments(self, pool, client):
        future = client.submit(pow, 2, 5)
        assert pool.apply(max, ([future, 3],)) == 32
        assert pool.gather([future]) == [32]

    def test_a_result_that_is_not_there_is_no_argument(self, pool):
        with pytest.raises(TypeError, match=r"give what its get\(\) or result\(\)"):
            pool.apply(abs, (pool.submit(nap, 1),))


class TestArrays:
    def test_an_array_given_to_many_is_sent_once_to_each_worker(self, client):
        array = np.arange(12_500_000.0)  # whose sum is exact
        sent = []
        before = self.received(client)
        with DaskPool(client) as pool:
            scatter = pool._engine.scatter
            pool._engine.arrays.send = lambda x: sent.append(x.nbytes) or scatter(x)
            futures = [pool.submit(total, array, i) for i in range(100)]
            assert pool.gather(futures) == [total(array, i) for i in range(100)]
        assert sent == [array.nbytes]
        # From there it went at most once to the other worker.
        assert self.received(client) - before <= 1.01 * array.nbytes

    @staticmethod
    def received(client):
        logs = client.run(lambda dask_worker: list(dask_worker.transfer_incoming_log))
        return sum(entry["total"] for log in logs.values() for entry in log)

    @pytest.mark.parametrize("size", [1_000, 50_000, 500_000])
    def test_a_changed_array_is_sent_anew(self, pool, size):
        array = np.zeros(size)
        for k in range(4):
            array[-1] = k
            assert pool.apply(total, (array, 0)) == k
            assert pool.map(functools.partial(total, array), [1, 2]) == [k + 1, k + 2]

    def test_shared_arrays_are_read_only_and_results_writeable(self, pool):
        array = np.ones(200_000)
        assert not pool.apply(lambda a: a.flags.writeable, (array,))
        result = pool.apply(np.negative, (array,))
        assert result.flags.writeable
        assert (result == -1).all()

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_any_layout(self, pool, order):
        array = np.asarray(np.random.default_rng(0).random((600, 400)), order=order)
        for a in (array, array[::2], array.T[1:, ::3], array.astype(">f4")):
            back = pool.gather([pool.submit(np.array, a) for _ in range(3)])
            assert all((b == a).all() for b in back)


class TestFunctions:
    def test_a_module_that_workers_do_not_have(self, pool, tmp_path, monkeypatch):
        (tmp_path / "only_here.py").write_text("SCALE = 3\ndef f(x): return SCALE * x\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        import only_here

        assert pool.map(only_here.f, range(4)) == [0, 3, 6, 9]
        assert pool.apply(only_here.f, (5,)) == 15

    def test_what_cannot_be_pickled_is_an_error_of_its_call(self, pool):
        good = pool.submit(nap, 2)
        with pytest.raises(TypeError, match="pickle"):
            pool.apply(abs, (threading.Lock(),))
        with pytest.raises(Exception, match="pickle"):
            pool.apply(threading.Lock)
        assert good.result() == 4

    def test_dask_is_there_in_a_task(self, pool, client):
        def where():
            distributed.secede()
            distributed.rejoin()
            return distributed.get_worker().address

        assert pool.apply(where) in client.scheduler_info()["workers"]

    def test_threads_of_a_task(self, pool):
        assert pool.apply(pydistrib.num_threads) == 1

    def test_short_calls_share_parcels(self, pool, client, monkeypatch):
        submit, parcels = client.submit, []
        monkeypatch.setattr(
            client, "submit", lambda *a, **k: parcels.append(1) or submit(*a, **k)
        )
        pool.gather([pool.submit(abs, -i) for i in range(1000)])
        assert len(parcels) < 100

    def test_a_slow_call_does_not_keep_those_behind_it(self, pool):
        pool.gather([pool.submit(nap, i, 0) for i in range(100)])  # known to be short
        futures = [pool.submit(nap, i, 3 if i == 0 else 0) for i in range(200)]
        start = time.monotonic()
        pool.gather(futures[100:])
        assert time.monotonic() - start < 2.5
        assert futures[0].result() == 0

    def test_endless_input_in_bounded_memory(self, pool):
        taken = []

        def endless():
            i = 0
            while True:
                taken.append(i)
                yield i
                i += 1

        for method in (pool.imap, pool.imap_unordered):
            taken.clear()
            results = method(abs, endless())
            got = [next(results) for _ in range(50)]
            assert sorted(got) == list(range(50)) or len(set(got)) == 50
            time.sleep(0.2)
            assert len(taken) < 50 + 4200
            results.close()


class TestKernels:
    @pytest.fixture(autouse=True)
    def small_tiles(self, monkeypatch):
        from pydistrib.kernels import distributed as tiles

        monkeypatch.setattr(tiles, "TILE_SECONDS", 0.002)
        monkeypatch.setattr(tiles, "_SURELY_SHORT", 0)

    def test_doubts_are_settled_here(self, client, assert_same_bits):
        x = np.random.default_rng(0).random((1500, 2))
        expected = pydistrib.kernel(gaussian, x, x)
        with DaskPool(client) as pool:
            got = pydistrib.kernel(gaussian, x, x, pool=pool)
        assert_same_bits(got, expected)

    def test_by_value_where_memory_cannot_be_shared(
        self, pool, monkeypatch, assert_same_bits
    ):
        from pydistrib.kernels import distributed as tiles

        monkeypatch.setattr(tiles, "_can_share", lambda: False)
        x = np.random.default_rng(0).standard_normal((900, 5))
        assert_same_bits(pydistrib.pairwise(x, pool=pool), pydistrib.pairwise(x))

    def test_one_object_of_the_scheduler_a_tile(self, pool, client, monkeypatch):
        from pydistrib.kernels import distributed as tiles

        monkeypatch.setattr(tiles, "TILE_SECONDS", 0.1)
        submit, parcels = client.submit, []
        monkeypatch.setattr(
            client, "submit", lambda *a, **k: parcels.append(1) or submit(*a, **k)
        )
        x = np.random.default_rng(0).random(600)
        start = time.perf_counter()
        expected = pydistrib.kernel(slow_distance, x, x)
        seconds = time.perf_counter() - start
        assert (pydistrib.kernel(slow_distance, x, x, pool=pool) == expected).all()
        assert 2 <= len(parcels) <= max(16, 20 * seconds)

    def test_small_work_stays_here(self, pool, monkeypatch):
        from pydistrib.kernels import distributed as tiles

        monkeypatch.setattr(tiles, "TILE_SECONDS", 10.0)
        monkeypatch.setattr(pool._engine, "start_unit", None)
        assert (
            pydistrib.kernel(absolute_distance, np.ones(5), np.ones(4), pool=pool).any()
            == 0
        )

    def test_bad_pools(self, client):
        x = np.ones(3)
        with pytest.raises(TypeError, match="pool must be a pool of pydistrib"):
            pydistrib.kernel(absolute_distance, x, x, pool=client)
        pool = DaskPool(client)
        pool.close()
        with pytest.raises(ValueError, match="not running"):
            pydistrib.kernel(absolute_distance, x, x, pool=pool)
        pool.join()


@pytest.mark.slow
class TestFaults:
    def test_a_worker_killed_during_a_map(self):
        with cluster() as client, DaskPool(client) as pool:
            kill_later(pids(client)[0], 0.4)
            with pytest.warns(WorkerLostWarning, match="was lost"):
                assert pool.map(nap, range(40)) == [x * x for x in range(40)]
            assert pool.map(nap, range(4)) == [0, 1, 4, 9]

    def test_a_worker_killed_during_calls_with_a_shared_array(self):
        array = np.arange(1_000_000.0)
        with cluster() as client, DaskPool(client) as pool:
            data = pool.scatter(array)
            futures = [
                pool.submit(lambda a, b, i: nap(i) + a.sum() - b.sum(), array, data, i)
                for i in range(30)
            ]
            kill_later(pids(client)[0], 0.5)
            kill_later(pids(client)[1], 1.0)
            with pytest.warns(WorkerLostWarning):
                assert pool.gather(futures) == [i * i for i in range(30)]

    def test_a_worker_killed_during_a_kernel(self, assert_same_bits):
        x = np.random.default_rng(0).random(1200)
        expected = pydistrib.kernel(slow_distance, x, x)
        with cluster() as client, DaskPool(client) as pool:
            kill_later(pids(client)[0], 0.5)
            with pytest.warns(WorkerLostWarning):
                got = pydistrib.kernel(slow_distance, x, x, pool=pool)
            assert_same_bits(got, expected)

    def test_a_task_that_kills_its_workers_fails_alone(self):
        def deadly(x):
            if x == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return x

        with cluster() as client, DaskPool(client) as pool:
            pool.gather([pool.submit(abs, -1) for _ in range(100)])
            futures = [pool.submit(deadly, x) for x in range(20)]
            with pytest.raises(distributed.KilledWorker):
                futures[7].result(timeout=120)
            rest = futures[:7] + futures[8:]
            assert [f.result(timeout=60) for f in rest] == [*range(7), *range(8, 20)]

    @pytest.mark.parametrize("how", ["killed", "closed"])
    def test_the_scheduler_gone(self, how):
        with contextlib.ExitStack() as stack:
            if how == "closed":
                client = stack.enter_context(cluster())
                end = client.cluster.close
            else:
                client, end = remote_cluster(stack)
            pool = DaskPool(client)
            results = [pool.map_async(nap, range(1000)), pool.submit(time.sleep, 100)]
            time.sleep(0.5)
            start = time.monotonic()
            end()
            with pytest.raises(ClusterError, match="is gone: start it again"):
                results[0].get(10)
            with pytest.raises(ClusterError):
                results[1].result(10)
            with pytest.raises(ClusterError):
                pool.apply_async(nap, (1,)).get(10)
            assert time.monotonic() - start < 10
            pool.terminate()

    def test_an_exception_comes_once_with_the_remote_traceback(self, pool):
        def inner():
            raise ZeroDivisionError("remotely")

        with pytest.raises(ZeroDivisionError, match="remotely") as caught:
            pool.map(lambda x: inner(), range(10))
        assert "in inner" in str(caught.value.__cause__)
        assert str(caught.value.__cause__).count("remotely") <= 2

    @pytest.mark.parametrize("how", ["cancel", "close", "terminate", "timeout"])
    def test_cancelling_frees_the_workers(self, client, how):
        with DaskPool(client) as pool:
            if how == "cancel":
                running = [pool.submit(nap, i, 0.5) for i in range(2)]
                waiting = [pool.submit(time.sleep, 100) for _ in range(50)]
                time.sleep(0.2)
                assert all(future.cancel() for future in waiting)
                assert pool.gather(running) == [0, 1]
            elif how == "close":
                results = pool.imap(time.sleep, [100] * 10)
                time.sleep(0.5)
                results.close()
            elif how == "terminate":
                with DaskPool(client) as other:
                    other.map_async(time.sleep, [100] * 10)
                    time.sleep(0.5)
            else:
                with pytest.raises(pydistrib.TimeoutError):
                    pool.map(time.sleep, [100] * 4, timeout=0.5)
            start = time.monotonic()
            assert pool.map(abs, range(-4, 0)) == [4, 3, 2, 1]
            assert time.monotonic() - start < 5

    def test_the_client_closed_half_way(self):
        with cluster() as client:
            pool = DaskPool(client)
            result = pool.map_async(nap, range(1000))
            time.sleep(0.5)
            client.close()
            with pytest.raises(ClusterError, match="client was closed"):
                result.get(10)
            with pytest.raises(ClusterError, match="client was closed"):
                pool.apply_async(nap, (1,)).get(10)
            pool.terminate()
            with pytest.raises(ClusterError, match="client was closed"):
                DaskPool(client)

    @pytest.mark.parametrize(
        "call",
        [
            "pool.gather([pool.submit(time.sleep, 2) for _ in range(100)])",
            "pool.map(time.sleep, [2] * 100)",
            "pool.apply(time.sleep, (100,))",
            "list(pool.imap(time.sleep, [2] * 100))",
            "kernel(lambda a, b: time.sleep(0.01) or 1.0, ones, ones, pool=pool)",
        ],
    )
    def test_ctrl_c(self, run_python, call):
        said = run_python(
            f"""
            import logging, os, signal, threading, time
            import numpy as np
            from pydistrib import DaskPool, kernel
            if __name__ == "__main__":
                logging.disable(logging.CRITICAL)
                ones = np.ones(200)
                with DaskPool(n_workers=2, threads_per_worker=1) as pool:
                    at = []
                    def interrupt():
                        at.append(time.monotonic())
                        os.kill(os.getpid(), signal.SIGINT)
                    threading.Timer(1.5, interrupt).start()
                    try:
                        {call}
                    except KeyboardInterrupt:
                        print(time.monotonic() - at[0] < 1)
                    if "gather" not in {call!r}:
                        start = time.monotonic()
                        assert pool.map(abs, [-1, -2]) == [1, 2]
                        print(time.monotonic() - start < 5)
            """,
            quiet=False,
        )
        assert set(said.split()) == {"True"}

    def test_another_version_on_a_worker(self):
        with cluster(workers=1) as client:
            client.run(lambda: setattr(__import__("pydistrib"), "__version__", "0.0.1"))
            with pytest.raises(ClusterError, match=r"has pydistrib 0\.0\.1.*same version"):
                DaskPool(client)

    def test_no_pydistrib_on_a_worker(self):
        def hide():
            for name in list(sys.modules):
                if name.partition(".")[0] == "pydistrib":
                    del sys.modules[name]
            sys.modules["pydistrib"] = None

        with cluster(workers=1) as client:
            client.run(hide)
            with pytest.raises(ClusterError, match=r"pip install 'pydistrib\[dask\]'"):
                DaskPool(client)

    def test_no_dask(self, run_python):
        said = run_python(
            """
            import sys
            sys.modules["distributed"] = None
            import pydistrib
            try:
                pydistrib.DaskPool()
            except ImportError as error:
                print(error)
            """
        )
        assert said == "DaskPool needs dask.distributed: pip install 'pydistrib[dask]'"

    def test_a_port_in_use(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(ClusterError, match="leave scheduler_port out"):
                DaskPool(scheduler_port=port, n_workers=1, host="127.0.0.1")

    def test_no_scheduler_at_an_address(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
            pytest.raises(ClusterError, match="there is no Dask scheduler"),
        ):
            DaskPool(f"tcp://127.0.0.1:{port}")

    def test_inputs_larger_than_a_worker_are_tiled(self, assert_same_bits):
        rng = np.random.default_rng(0)
        x, y = rng.random((850, 60_000)), rng.random((60, 60_000))
        expected = pydistrib.pairwise(x, y)
        with cluster(memory_limit="400MB") as client, DaskPool(client) as pool:
            assert x.nbytes > 400e6
            before = pids(client)
            assert_same_bits(pydistrib.pairwise(x, y, pool=pool), expected)
            assert pids(client) == before  # none was killed for its memory


def remote_cluster(stack):
    """Start a scheduler and two workers as programs of their own."""

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return process

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    host, port = address.split(":")
    scheduler = run(
        "distributed.cli.dask_scheduler", "--host", host, "--port", port, "--no-dashboard"
    )
    for _ in range(2):
        run(
            "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard",
            "--no-nanny",
        )  # fmt: skip
    client = distributed.Client(address, set_as_default=False, timeout=60)
    stack.callback(client.close)
    client.wait_for_workers(2, timeout=60)
    return client, scheduler.kill


@pytest.mark.slow
class TestLife:
    def test_its_own_cluster_ends_with_it(self):
        pool = DaskPool(n_workers=1, threads_per_worker=1)
        [pid] = pids(pool.client)
        assert pool.map(nap, range(3)) == [0, 1, 4]
        pool.close()
        pool.join()
        assert pool.client.status == "closed"
        deadline = time.monotonic() + 20
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def test_an_address_will_do(self, client):
        with DaskPool(client.scheduler.address) as pool:
            assert pool.map(nap, range(3)) == [0, 1, 4]
        assert client.submit(pow, 2, 3).result() == 8

    def test_a_client_is_left_alone(self, client):
        for _ in range(3):
            with DaskPool(client) as pool:
                assert pool.apply(nap, (3,)) == 9
        assert client.submit(pow, 2, 3).result() == 8

    def test_calls_of_a_task(self):
        with DaskPool(processes=False, n_workers=1, threads_per_worker=2) as pool:

            def outer(x):
                return sum(pool.map(nap, range(x))) + sum(pool.imap(abs, [-1, -2]))

            assert pool.map(outer, range(6)) == [3, 3, 4, 8, 17, 33]

    @pytest.mark.parametrize("bad", [5, object()])
    def test_what_is_no_client(self, bad):
        with pytest.raises(TypeError, match="client must be"):
            DaskPool(bad)

    def test_options_need_an_own_cluster(self, client):
        with pytest.raises(TypeError, match="n_workers: options are for a cluster"):
            DaskPool(client, n_workers=3)

    def test_stats(self, pool):
        pool.map(nap, range(8))
        stats = pool.stats()
        assert stats.tasks == 8
        assert sum(worker.run_time for worker in stats.workers) >= 8 * 0.05

    def test_import_imports_no_dask(self, run_python):
        said = run_python(
            """
            import sys, pydistrib
            pydistrib.DaskPool, pydistrib.ClusterError
            print([m for m in sys.modules if m.partition(".")[0] in
                   ("dask", "distributed", "cloudpickle", "tornado", "asyncio")])
            """
        )
        assert said == "[]"

    def test_a_script_with_the_guard(self, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(
            textwrap.dedent(
                """
                from pydistrib import DaskPool
                def f(x):
                    return x + 1
                if __name__ == "__main__":
                    with DaskPool(n_workers=2) as pool:
                        print(pool.map(f, range(3)))
                """
            )
        )
        done = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=120
        )
        assert done.stdout.strip() == "[1, 2, 3]", done.stderr

"""Shared state between processes: how it gets there, and who dies on the way."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import pydistrib
from pydistrib import Manager, SharedDict, _core, share, shared_empty

sys.path.insert(0, str(Path(__file__).parent))
import work

METHODS = ["fork", "spawn", "forkserver"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(params=METHODS)
def context(request):
    return multiprocessing.get_context(request.param)


def run_all(processes):
    processes = list(processes)
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0


class TestTravelling:
    def test_the_posts_cell(self, context):
        manager = pydistrib.Manager()
        return_dict = manager.dict()
        jobs = [context.Process(target=work.store, args=(return_dict, i)) for i in range(5)]
        run_all(jobs)
        assert sorted(return_dict.values()) == sorted(job.pid for job in jobs)
        assert {i: job.pid for i, job in enumerate(jobs)} == dict(return_dict)
        assert type(return_dict.values()) is list

    def test_the_posts_text_with_another_import(self, run_python):
        code = """
            import multiprocessing
            from os import getpid
            import pydistrib

            def worker(procnum, return_dict):
                '''worker function'''
                print('I am number %d in process %d' % (procnum, getpid()), flush=True)
                return_dict[procnum] = getpid()

            manager = pydistrib.Manager()
            return_dict = manager.dict()
            jobs = []
            for i in range(5):
                p = multiprocessing.get_context("fork").Process(
                    target=worker, args=(i, return_dict))
                jobs.append(p)
                p.start()
            for proc in jobs:
                proc.join()
            print(len(set(return_dict.values())), type(return_dict.values()).__name__)
        """
        assert run_python(code).splitlines()[-1] == "5 list"

    def test_all_steps_of_all_processes_are_kept(self, context):
        shared = SharedDict()
        run_all(context.Process(target=work.count, args=(shared, 20_000)) for _ in range(3))
        assert shared["n"] == 60_000

    def test_through_a_pool(self, context):
        shared = SharedDict()
        with context.Pool(2) as pool:
            assert pool.starmap(work.append, [(shared, i) for i in range(30)], 1) == [
                *range(30)
            ]
        assert sorted(shared["list"]) == list(range(30))
        assert shared["set"] == frozenset(range(30))

    def test_through_an_executor_a_queue_and_a_pipe(self, context):
        shared = SharedDict(allow_pickle=False)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            assert pool.submit(work.type_of, shared).result() == ("SharedDict", False)
        queue = context.Queue()
        queue.put(shared)
        assert queue.get() is shared  # of each there is one in a process
        ours, theirs = context.Pipe()
        ours.send([share([1.0, 2.0])])
        assert list(theirs.recv()[0]) == [1.0, 2.0]

    def test_made_by_a_worker(self, context):
        with context.Pool(1) as pool:
            assert pool.apply(work.make_dict, (100,)) == {i: i for i in range(100)}
            assert list(pool.apply(work.make_array, (3,))) == [0, 1, 2]

    def test_a_dict_that_the_sender_drops_arrives(self, context):
        with context.Pool(1) as pool:
            results = [
                pool.apply_async(work.type_of, (SharedDict({1: 2}),)) for _ in range(20)
            ]
            gc.collect()
            assert {result.get() for result in results} == {("SharedDict", True)}

    def test_descriptors_are_closed(self):
        shared = SharedDict()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.starmap(work.append, [(shared, i) for i in range(10)])
            before = len(os.listdir("/proc/self/fd"))
            pool.starmap(work.append, [(shared, i) for i in range(100)], 1)
            assert len(os.listdir("/proc/self/fd")) <= before + 2

    @pytest.mark.parametrize(
        "make",
        [SharedDict, pydistrib.SharedLock, lambda: shared_empty(3), Manager().dict],
    )
    def test_plain_pickle_is_refused(self, make):
        with pytest.raises(TypeError, match="cannot be pickled by itself: it travels as"):
            pickle.dumps(make())

    def test_a_handle_whose_sender_is_gone(self, run_python):
        code = """
            from multiprocessing.reduction import ForkingPickler
            from pydistrib import SharedDict
            print(bytes(ForkingPickler.dumps(SharedDict())).hex())
        """
        with pytest.raises(RuntimeError, match="the process that sent it must still run"):
            pickle.loads(bytes.fromhex(run_python(code)))

    def test_text_is_found_whatever_its_hash(self):
        code = f"""
import multiprocessing, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import work
from pydistrib import SharedDict

if __name__ == "__main__":
    shared = SharedDict({{"text" * n: n for n in range(100)}})
    for seed in ("1", "2"):
        os.environ["PYTHONHASHSEED"] = seed
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            tasks = [(shared, "text" * n) for n in range(100)]
            assert pool.starmap(work.hash_of_text, tasks) == list(range(100))
        print(shared["text", "hash"])
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert len(set(done.stdout.split())) == 2


@pytest.fixture
def fork():
    return multiprocessing.get_context("fork")


def die(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


class TestDeath:
    @pytest.mark.timeout(250)
    def test_writers_killed_at_random(self, fork):
        shared, seed, slowest = SharedDict(), 0, []
        writers = [None] * 3
        until = time.monotonic() + 15
        while time.monotonic() < until and seed < 3000:
            i = seed % len(writers)
            if writers[i] is not None:
                die(writers[i])
                start = time.perf_counter()
                shared[seed % 30] = seed
                slowest.append(time.perf_counter() - start)
            writers[i] = fork.Process(target=work.write_for_ever, args=(shared, seed))
            writers[i].start()
            seed += 1
            if seed % 25 == 0:
                shared._audit()
        for writer in writers:
            die(writer)
        shared._audit()
        assert seed > 100
        assert shared.nbytes < 64 << 20
        for value in shared.values():
            assert not isinstance(value, np.ndarray) or value[0] == len(value)
        # Writers that live compete for two processors; the median tells of the dict.
        assert sorted(slowest)[len(slowest) // 2] < 0.001

    def test_who_edits_dies(self, fork):
        shared = SharedDict(key=[1])
        ours, theirs = fork.Pipe()
        process = fork.Process(target=work.edit_and_die, args=(shared, theirs))
        process.start()
        ours.recv()
        assert shared["key"] == [1]
        die(process)
        start = time.perf_counter()
        shared["key"] = [2]
        assert time.perf_counter() - start < 0.05
        with shared.editing("key") as value:
            value.append(3)
        assert shared["key"] == [2, 3]
        shared._audit()

    def test_pins_of_the_dead_are_dropped(self, fork):
        shared = SharedDict(key=np.zeros(100_000))

        def keep(sent):
            kept = shared["key"]
            sent.send(len(kept))
            signal.pause()

        for _ in range(40):
            ours, theirs = fork.Pipe()
            process = fork.Process(target=keep, args=(theirs,))
            process.start()
            ours.recv()
            shared["key"] = np.zeros(100_000)
            die(process)
        shared._audit()
        before = shared.nbytes
        for _ in range(40):
            shared["key"] = np.zeros(100_000)
        assert shared.nbytes == before

    def test_a_child_keeps_its_views(self, fork):
        shared = SharedDict(key=np.arange(50_000))
        views = [shared["key"]]
        ours, theirs = fork.Pipe()

        def look():
            theirs.recv()
            theirs.send(bool(np.array_equal(views[0], np.arange(50_000))))

        process = fork.Process(target=look)
        process.start()
        views.clear()
        for i in range(20):
            shared["key"] = np.full(50_000, i)
        ours.send(1)
        assert ours.recv()
        process.join()
        shared._audit()

    @linux
    def test_nothing_is_left_of_a_parent_that_was_killed(self):
        code = """
            import numpy as np, os, sys, signal, multiprocessing
            from pydistrib import SharedDict, SharedLock, share
            d = SharedDict(a=np.zeros(1_000_000))
            a = share(np.ones(20_000_000))
            lock = SharedLock()
            lock.acquire()
            print(a.sum(), flush=True)
            signal.pause()
        """
        import textwrap

        before = _names()
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"20000000.0\n"
        taken = _shared_memory()
        process.kill()
        process.wait()
        process.stdout.close()
        until = time.monotonic() + 5
        while _shared_memory() > taken - 150_000 and time.monotonic() < until:
            time.sleep(0.02)
        assert _shared_memory() < taken - 150_000
        assert _names() <= before

    def test_ctrl_c_while_waiting(self, run_python):
        code = """
            import os, signal, threading, time
            from pydistrib import SharedDict, SharedLock

            lock, d = SharedLock(), SharedDict(a=1)
            ready, done = threading.Event(), threading.Event()

            def hold():
                with lock, d.editing("a"):
                    ready.set()
                    done.wait()

            thread = threading.Thread(target=hold)
            thread.start()
            ready.wait()

            def store():
                d["a"] = 2

            for wait in (lock.acquire, store):
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                start = time.perf_counter()
                try:
                    wait()
                except KeyboardInterrupt:
                    print(time.perf_counter() - start < 1.0)
            done.set()
            thread.join()
            store()
            print(d["a"])
        """
        assert run_python(code).split() == ["True", "True", "2"]

    def test_out_of_memory(self, run_python):
        code = """
            import resource
            import numpy as np
            from pydistrib import SharedDict, shared_empty

            d = SharedDict(a=1)
            large = np.zeros(40_000_000, "u1")
            import signal
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))
            for act in (lambda: d.update(b=large), lambda: shared_empty(40_000_000),
                        lambda: shared_empty((2**40, 2**40))):
                try:
                    act()
                except MemoryError:
                    print("MemoryError", d)
            d["b"] = large[:10_000_000]
            d._audit()
            print(len(d["b"]))
        """
        lines = run_python(code).splitlines()
        assert lines == ["MemoryError SharedDict({'a': 1})"] * 3 + ["10000000"]

    def test_a_limit_of_address_space(self, run_python):
        code = """
            import resource
            import numpy as np
            from pydistrib import SharedDict
            resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
            d = SharedDict()
            for i in range(60):
                d[i] = np.full(1_000_000, i)
            print(sum(int(d[i][-1]) for i in range(60)))
        """
        assert run_python(code, OPENBLAS_NUM_THREADS=1) == str(sum(range(60)))


def _names():
    # Others on this machine have semaphores.
    return {name for name in os.listdir("/dev/shm") if not name.startswith("sem.")}


def _shared_memory():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1])
    raise AssertionError("no Shmem in /proc/meminfo")


class TestAttaching:
    def test_what_is_not_ours_is_refused(self):
        for fd in (os.open("/dev/null", os.O_RDWR), os.memfd_create("foreign")):
            for open_ in (
                lambda fd: _core.SharedTable(fd, True),
                lambda fd: _core.SharedBlock(fd, 10),
                lambda fd: _core.SharedMutex(fd),
            ):
                with pytest.raises(RuntimeError, match="shared memory is damaged, or was"):
                    open_(fd)
            os.close(fd)
        with pytest.raises(RuntimeError, match="made by something else"):
            _core.SharedMutex(SharedDict().fileno())
        small = _core.SharedBlock(-1, 10)
        with pytest.raises(RuntimeError, match="made by something else"):
            _core.SharedBlock(small.fileno(), 10_000)
        assert memoryview(small).nbytes == 10

    def test_memory_is_private_and_cannot_shrink(self):
        fd = SharedDict().fileno()
        shared = SharedDict()
        fd = shared.fileno()
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert not os.get_inheritable(fd)
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)


class TestManager:
    def test_as_the_standard_one(self):
        with Manager() as manager:
            shared, lock = manager.dict({"a": 1}, b=2), manager.Lock()
            with lock:
                shared["c"] = 3
        assert shared.keys() == ["a", "b", "c"]
        assert shared.items() == [("a", 1), ("b", 2), ("c", 3)]
        assert str(shared) == "{'a': 1, 'b': 2, 'c': 3}"
        assert shared.copy() == {"a": 1, "b": 2, "c": 3}
        with pytest.raises(AssertionError, match="shut down"):
            manager.dict()
        with pytest.raises(AttributeError, match=r"has dict\(\) and Lock\(\), not 'list'"):
            manager.list()

    def test_keywords_are_items(self):
        assert Manager().dict(allow_pickle=2) == {"allow_pickle": 2}

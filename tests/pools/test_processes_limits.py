"""What the system refuses: descriptors, processes, memory; and what is killed by others."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import pydistrib
from pydistrib import PoolBroken, WorkerDied

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pools need memfd")

METHODS = ["fork", "forkserver", "spawn"]


@pytest.fixture(params=METHODS)
def pool(request):
    with pydistrib.Pool(2, context=request.param) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]
        yield pool
    pool.join()


def square(x):
    return x * x


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def nursery_pid(pool):
    """The process that makes the pool's workers: a worker tells."""
    return pool.apply(os.getppid)


def virtual_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


@contextlib.contextmanager
def limit(pid, which, value):
    soft, hard = resource.prlimit(pid, which)
    resource.prlimit(pid, which, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, which, (soft, hard))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_all(pool):
    for worker in pool._pool:
        os.kill(worker.pid, signal.SIGKILL)
        wait_for(lambda worker=worker: worker.exitcode is not None)


# --------------------------------------------------------------------------------------
# While a worker is replaced
# --------------------------------------------------------------------------------------


class TestReplacing:
    """A limit is reached, the pool waits, and goes on when it is lifted."""

    def test_no_descriptors_in_the_nursery(self, pool):
        pid = nursery_pid(pool)
        with limit(pid, resource.RLIMIT_NOFILE, 4):
            kill_all(pool)
            result = pool.apply_async(square, (3,))
            time.sleep(0.3)
            assert not result.ready()
        assert result.get(60) == 9
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_one_worker_less_is_no_end(self, pool):
        """Refused again and again, while another worker is there: it does all."""
        pid = nursery_pid(pool)
        with limit(pid, resource.RLIMIT_NOFILE, 4):
            with pytest.raises(WorkerDied):
                pool.apply(die)
            pool._engine.done = pool._engine.board.settled  # none meanwhile
            pool._engine.deaths = 1000
            wait_for(lambda: pool._engine.deaths > 1000)
            assert pool.map(square, range(50), 1) == [i * i for i in range(50)]
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_no_memory_in_the_nursery(self, pool):
        pid = nursery_pid(pool)
        with limit(pid, resource.RLIMIT_AS, virtual_bytes(pid) + (1 << 16)):
            kill_all(pool)
            result = pool.apply_async(square, (3,))
            time.sleep(0.3)
        assert result.get(60) == 9
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

    def test_it_breaks_if_the_limit_stays(self, monkeypatch):
        with pydistrib.Pool(1, context="fork") as pool:
            pid = nursery_pid(pool)
            with limit(pid, resource.RLIMIT_NOFILE, 4):
                kill_all(pool)
                with pytest.raises(PoolBroken, match="Too many open files"):
                    pool.apply_async(square, (3,)).get(120)
        pool.join()


def test_no_processes():
    """RLIMIT_NPROC does not bind root: the script becomes another user first."""
    script = f"""
    import ctypes, os, resource, sys, time
    import multiprocessing.pool, traceback, numpy, pydistrib
    from pydistrib.pools import processes
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import test_processes_limits as me
    if os.getuid() == 0:
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: /proc/self is ours
    with pydistrib.Pool(2, context="fork") as pool:
        assert pool.map(me.square, range(4)) == [0, 1, 4, 9]
        with me.limit(me.nursery_pid(pool), resource.RLIMIT_NPROC, 1):
            me.kill_all(pool)
            result = pool.apply_async(me.square, (3,))
            time.sleep(0.3)
            print(result.ready())
        print(result.get(60), pool.map(me.square, range(4)))
    pool.join()
    """
    assert run(script).split("\n") == ["False", "9 [0, 1, 4, 9]"]


def run(script, *command):
    done = subprocess.run(
        [*command, sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.strip()


# --------------------------------------------------------------------------------------
# Memory
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_under_a_limit_of_address_space(method):
    """`ulimit -v`, as on many clusters: the pool takes little of it for itself."""
    script = f"""
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    import numpy as np, pydistrib
    def double(array):
        return 2 * array
    def ask(size):
        return len(bytearray(size))
    with pydistrib.Pool(4, context={method!r}) as pool:
        arrays = [np.full(1 << 20, i, float) for i in range(16)]
        results = pool.map(double, arrays, 1)
        print(all((r == 2 * a).all() for r, a in zip(results, arrays)))
        print(pool.apply(ask, (2 << 30,)) == 2 << 30)
        print(len(bytearray(2 << 30)) == 2 << 30)
        try:
            pool.apply(ask, (8 << 30,))
        except MemoryError:
            print("MemoryError")
        print(pool.apply(ask, (5,)))
    pool.join()
    """
    assert run(script).split() == ["True"] * 3 + ["MemoryError", "5"]


@contextlib.contextmanager
def memory_group(limit):
    """A control group with so little memory; skips where none can be made."""
    for root, name, extra in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
    ):
        group = Path(root, f"pydistrib-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / name).write_text(str(limit))
            with contextlib.suppress(OSError):
                (group / extra).write_text(str(limit) if "memsw" in extra else "0")
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            wait_for(lambda: not (group / "cgroup.procs").read_text())
            group.rmdir()
        return
    pytest.skip("no control group for memory can be made here")


def fill(size):
    return np.full(size, 1, np.uint8).sum()


def test_the_system_kills_for_memory(pool):
    """The error says so, the others' results come, and the worker is replaced."""
    with memory_group(300 << 20) as group:
        for worker in pool._pool:
            (group / "cgroup.procs").write_text(str(worker.pid))
        small = [pool.apply_async(fill, (1000,)) for _ in range(20)]
        large = pool.apply_async(fill, (1 << 30,))
        with pytest.raises(WorkerDied, match="out of memory") as caught:
            large.get(60)
        assert caught.value.out_of_memory
        assert caught.value.signal == signal.SIGKILL
        assert [r.get(60) for r in small] == [1000] * 20
        pool.terminate()
        pool.join()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount")
def test_a_tiny_dev_shm_is_not_used():
    script = """
    import os, numpy as np, pydistrib
    stat = os.statvfs("/dev/shm")
    assert stat.f_blocks * stat.f_frsize == 4 << 20
    for method in ("fork", "forkserver", "spawn"):
        with pydistrib.Pool(2, context=method) as pool:
            arrays = [np.full(2 << 20, i, float) for i in range(4)]
            for array, result in zip(arrays, pool.imap(np.negative, arrays)):
                assert (result == -array).all()
            assert os.listdir("/dev/shm") == []
        pool.join()
    now = os.statvfs("/dev/shm")
    print(now.f_bfree == now.f_blocks)
    """
    mount = 'mount -t tmpfs -o size=4m none /dev/shm && exec "$@"'
    probe = ["unshare", "-m", "sh", "-c", mount, "sh"]
    if subprocess.run([*probe, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    assert run(script, *probe) == "True"


def available_memory():
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


def ends(array):
    return array.nbytes, float(array[0]), float(array[-1])


def make_large(count):
    array = np.zeros(count, np.uint8)
    array[0], array[-1] = 1, 2
    return array


@pytest.mark.slow
@pytest.mark.skipif(available_memory() < 8 << 30, reason="needs 8 GB of memory")
def test_more_than_2_gb_both_ways():
    count = (2 << 30) + 12345
    array = make_large(count)
    with pydistrib.Pool(1, context="forkserver") as pool:
        assert pool.apply(ends, (array,)) == (count, 1.0, 2.0)
        del array
        result = pool.apply(make_large, (count,))
        assert ends(result) == (count, 1.0, 2.0)
    pool.join()


# --------------------------------------------------------------------------------------
# The parent is killed
# --------------------------------------------------------------------------------------


def descendants(pid):
    children = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def nest(method):
    """In a worker: a pool of its own, which works until it is killed."""
    pool = pydistrib.Pool(2, context=method)
    pool.map_async(time.sleep, [60] * 4, 1)
    print("nested", flush=True)
    time.sleep(60)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_left_of_a_killed_parent(method):
    """No process of any generation, no file, and no memory, which processes hold."""
    script = f"""
    import os, sys, time
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import numpy as np, pydistrib, test_processes_limits as me
    pool = pydistrib.Pool(2, context={method!r})
    arrays = pool.map(np.negative, [np.ones(1 << 18)] * 4, 1)
    pool.map_async(me.nest, [{method!r}] * 2, 1)
    time.sleep(60)
    """
    before = set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        for _ in range(2):
            assert child.stdout.readline().strip() == "nested"
        # Two workers and each one's two, and what makes them.
        wait_for(lambda: len(descendants(child.pid)) >= 6)
        pids = descendants(child.pid)
        child.kill()
        child.wait()
        start = time.monotonic()
        wait_for(lambda: not any(map(runs, pids)))
        took = time.monotonic() - start
        assert took < 20  # it is 200 ms, where the machine does nothing else
    left = set(os.listdir("/dev/shm")) | set(os.listdir("/tmp"))
    assert not [name for name in left - before if "pydistrib" in name or "pymp" in name]

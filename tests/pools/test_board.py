"""The board's two sides in one process: who may read which result, and when."""

from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from pydistrib._core import AsyncResult, Board, Desk, Job, MapResult
from pydistrib.errors import TimeoutError
from pydistrib.pools import worker as protocol

SLOTS = 8


class Case:
    """A board with one desk, both ends of it."""

    def __init__(self):
        self.ring = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.board = Board(SLOTS, 1)
        box = self.board.open_desk(0)
        self.desk = Desk(os.dup(self.board.fileno()), os.dup(box), self.ring, 0, 0.0)
        self.queue = collections.deque()
        self.board.attend(self.ring, (self.queue,))
        self.function = (1, self.board.pack(b"", ()), None, ())

    def job(self, plain=True):
        job = Job()
        job.result = AsyncResult(abs, (1,))
        job.result._take(lambda _: False, self.board)
        job.plain = plain
        job.function = self.function
        job.payload = b""
        return job

    def post(self, plain=True):
        job = self.job(plain)
        assert self.board.post(job)
        return job.result

    def work(self, value):
        assert self.desk.take(0.0) == (protocol.CALL, 1)
        assert self.desk.give(True, pickle.dumps(value, 5), (), False)

    def rung(self):
        try:
            return os.eventfd_read(self.ring) > 0
        except BlockingIOError:
            return False


@pytest.fixture
def case():
    case = Case()
    yield case
    os.close(case.ring)


def waits_in_vain(result):
    with pytest.raises(TimeoutError):
        result.get(0.01)
    return True


# -- who reads -------------------------------------------------------------------------


def test_a_waiter_reads_its_result_itself(case):
    first, second = case.post(), case.post()
    case.work("first")
    case.work("second")
    assert second.get(5) == "second"
    assert first.ready()
    assert first.get() == "first"
    assert case.board.settled == 2
    assert case.board.free == SLOTS
    assert not case.rung()


def test_after_a_wait_the_engine_is_rung(case):
    result = case.post()
    assert waits_in_vain(result)
    assert not case.rung()
    case.work(1)
    assert case.rung()


def test_what_is_not_plain_is_left_to_the_engine(case):
    result = case.post(plain=False)
    case.work(1)
    assert waits_in_vain(result)
    assert case.rung()
    settled, events = case.board.collect(0, 10)
    assert settled == 0
    assert [event[1] for event in events] == [protocol.RESULT]


def test_no_result_overtakes_what_was_printed_before_it(case):
    first = case.post()
    case.desk.say(protocol.TEXT, b"\x01text")
    case.work(1)
    assert waits_in_vain(first)
    assert case.rung()
    _, events = case.board.collect(0, 1)
    assert [event[1] for event in events] == [protocol.TEXT]
    assert waits_in_vain(first), "the text is not printed yet"
    assert case.board.collect(0, 10) == (1, [])
    assert first.get() == 1


def test_while_tasks_wait_for_a_slot_the_engine_reads(case):
    case.queue.append(None)
    result = case.post()
    case.work(1)
    assert waits_in_vain(result)
    assert case.board.collect(0, 10) == (1, [])
    assert result.get() == 1


def test_settle_makes_room(case):
    results = [case.post() for _ in range(SLOTS)]
    assert not case.board.post(case.job())
    assert not case.board.settle()
    for i in range(SLOTS):
        case.work(i)
    assert case.board.settle()
    assert [result.get() for result in results] == list(range(SLOTS))
    assert case.board.post(case.job())


# -- unpickling ------------------------------------------------------------------------

calls = []


class Unpickled:
    """When it is unpickled, `function` is called."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


class Signalled(Exception):
    pass


def raise_at_first():
    calls.append(1)
    if len(calls) == 1:
        raise Signalled
    return "arrived"


def refuse():
    raise LookupError("not here")


others = []


def wait_for_another():
    return others.pop().get(5)


def test_a_signal_while_unpickling_loses_no_result(case):
    calls.clear()
    result = case.post()
    case.work(Unpickled(raise_at_first))
    with pytest.raises(Signalled):
        result.get(5)
    assert result.get(5) == "arrived"


def test_a_refusal_is_the_task_s_own(case):
    refused, fine = case.post(), case.post()
    case.work(Unpickled(refuse))
    case.work(2)
    assert fine.get(5) == 2
    with pytest.raises(LookupError, match="not here"):
        refused.get(5)


def test_unpickling_may_wait_for_another_result(case):
    outer, inner = case.post(), case.post()
    others.append(inner)
    case.work(Unpickled(wait_for_another))
    case.work("inner")
    assert outer.get(5) == "inner"


def report_in_time():
    """Another result arrives while this one is unpickled."""
    other = others.pop()
    other.work(3)
    return other.rung()


def test_while_a_waiter_unpickles_the_engine_is_rung(case):
    outer = case.post()
    case.post()
    others.append(case)
    case.work(Unpickled(report_in_time))
    assert outer.get(5) is True


# -- maps ------------------------------------------------------------------------------


def model_of(case, result):
    job = case.job()
    job.result = result
    job.mode = protocol.ITEM
    job.count = 1
    job.source = (abs, None)
    return job


def small(item):
    if isinstance(item, np.ndarray):
        return None
    return pickle.dumps(item, 5)


def run_all(case):
    while (task := case.desk.take(0.0)) is not None:
        assert task == (protocol.ITEM, 1)
        item = pickle.loads(case.desk.payload()[0])
        assert case.desk.give(True, pickle.dumps(item, 5), (), False)


def test_items_are_posted_until_the_table_is_full(case):
    items = (1, 2.5, "text", b"bytes", None, True, (1, 2), [3], 9, 10)
    result = MapResult(abs, items, 1, False)
    result._take(lambda _: False, case.board)
    model = model_of(case, result)
    assert case.board.post_items(model, items, 0, small) == SLOTS
    jobs = case.board.jobs(result)
    assert sorted(job.start for job in jobs) == list(range(SLOTS))
    assert {job.source[0] for job in jobs} == {abs}
    run_all(case)
    assert case.board.settle()
    assert case.board.post_items(model, items, SLOTS, small) == len(items)
    run_all(case)
    assert result.get(5) == list(items)


@pytest.mark.parametrize(
    "odd", [np.zeros(3), "x" * 1000, lambda: 0], ids=["array", "long", "refused"]
)
def test_items_that_take_more_are_left(case, odd):
    items = (1, odd, 3)
    result = MapResult(abs, items, 1, False)
    model = model_of(case, result)
    assert case.board.post_items(model, items, 0, small) == 1
    assert len(case.board.jobs(result)) == 1


def test_items_are_posted_as_long_as_they_are_wanted(case):
    items = tuple(range(5))
    result = MapResult(abs, items, 1, False)
    model = model_of(case, result)
    result._fail(ValueError("stopped"))
    assert case.board.post_items(model, items, 0, small) == 0


def test_an_interrupted_pickling_is_raised(case):
    def interrupted(_):
        raise KeyboardInterrupt

    items = (1, (2,), 3)
    model = model_of(case, MapResult(abs, items, 1, False))
    with pytest.raises(KeyboardInterrupt):
        case.board.post_items(model, items, 0, interrupted)


# -- bad input -------------------------------------------------------------------------


def test_jobs_are_checked(case):
    job = Job()
    with pytest.raises(TypeError, match="complete"):
        case.board.post(job)
    with pytest.raises(TypeError, match="AsyncResult"):
        job.result = 1
    with pytest.raises(TypeError, match="exception"):
        job.settle(False, 1)
    job.settle(True, 1)  # for nobody
    job = case.job()
    job.payload = b"x" * 1000
    with pytest.raises(ValueError, match="packed"):
        case.board.post(job)
    with pytest.raises(TypeError):
        AsyncResult(abs)._take(lambda _: False, None)


def test_pickle_scalars(case):
    data = case.board.pickle_scalars((1, "a", None, 2.5, b"c", True), None)
    assert pickle.loads(data) == ((1, "a", None, 2.5, b"c", True), None)
    assert case.board.pickle_scalars((1, [2]), None) is None
    assert case.board.pickle_scalars((1,), {"key": 1}) is None
    assert case.board.pickle_scalars(("x" * 1000,), None) is None

"""SharedDict in one process: what a dict does, values, keys, steps that are one."""

from __future__ import annotations

import collections
import copy
import enum
import gc
import pickle
import threading
from collections.abc import MutableMapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pydistrib import SharedArray, SharedDict, share

PLAIN_VALUES = [
    *(0, 1, -1, 2**63 - 1, -(2**63), 2**63, -(2**64), 10**1000, True, False, None),
    *(0.0, -0.0, 1.5, float("inf"), 5e-324),
    *("", "a", "a" * 16, "a" * 17, "ü" * 5000, "\0", "\ud800", "x" * 2_000_000),
    *(b"", b"a", b"a" * 16, b"\0" * 17, bytes(range(256)) * 5000),
]


class Color(enum.IntEnum):
    RED = 1


Point = collections.namedtuple("Point", "x y")


class TestValues:
    @pytest.mark.parametrize("value", PLAIN_VALUES, ids=lambda value: repr(value)[:20])
    def test_plain_values_come_back(self, value):
        d = SharedDict()
        d["key"] = value
        assert d["key"] == value
        assert type(d["key"]) is type(value)
        assert repr(d["key"]) == repr(value)

    @pytest.mark.parametrize(
        "value",
        [
            [1, [2]], {"a": {1, 2}}, Point(1, 2), Color.RED, 1j, np.float64(1.5),
            np.int8(3), np.str_("x"), slice(1, 2), ValueError("x"), range(3), len,
        ],
        ids=repr,
    )  # fmt: skip
    def test_other_values_are_pickled(self, value):
        d = SharedDict({"key": value})
        assert type(d["key"]) is type(value)
        assert repr(d["key"]) == repr(value)

    def test_nan(self):
        d = SharedDict(key=float("nan"))
        assert d["key"] != d["key"]

    def test_what_cannot_be_pickled_is_an_error_and_changes_nothing(self):
        d = SharedDict(key=1)
        with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
            d["key"] = lambda: None
        with pytest.raises(TypeError, match="SharedDict cannot be pickled by itself"):
            d["key"] = SharedDict()
        assert d == {"key": 1}

    def test_a_value_that_was_read_is_a_copy(self):
        d = SharedDict(key=[1])
        d["key"].append(2)
        assert d["key"] == [1]


DTYPES = [
    *("?", "i1", "u2", "<i4", ">i4", "f2", "f4", "f8", ">f8", "c16", "g"),
    *("S5", "U3", "V7", "M8[ns]", "m8[25s]", [("a", "i4"), ("b", "f8", (2,))]),
    np.dtype({"names": ["a", "b"], "formats": ["i2", "f8"], "offsets": [0, 16]}),
]


class TestArrays:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (50, 60)], ids=str)
    def test_any_dtype_and_shape(self, dtype, shape):
        value = np.zeros(shape, dtype)
        raw = np.random.default_rng(0).integers(48, 50, value.nbytes, dtype=np.uint8)
        if value.dtype.kind != "U":
            value = raw.view(np.dtype(dtype)).reshape(shape)
        d = SharedDict(key=value)
        got = d["key"]
        assert type(got) is np.ndarray
        assert (got.dtype, got.shape) == (value.dtype, value.shape)
        assert got.tobytes() == value.tobytes()

    @pytest.mark.parametrize("size", [3, 2000])
    def test_any_order_and_strides(self, size):
        whole = np.arange(size * 8.0).reshape(size, 8)
        for view in (whole.T, whole[::-1], whole[:, ::2], whole[:, 1:], whole[:, :0]):
            d = SharedDict(key=view)
            np.testing.assert_array_equal(d["key"], view)
            assert d["key"].flags.f_contiguous or not view.flags.f_contiguous

    def test_a_view_is_not_a_copy(self):
        d = SharedDict(key=np.arange(1_000_000.0))
        a, b = d["key"], d["key"]
        assert np.shares_memory(a, b)
        assert a.ctypes.data % 64 == 0

    @pytest.mark.parametrize("size", [3, 1000])
    def test_a_view_is_read_only_and_stays(self, size):
        d = SharedDict(key=np.arange(size))
        view = d["key"]
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        if size > 3:  # a small one is a copy of its own
            with pytest.raises(ValueError, match="WRITEABLE"):
                view.flags.writeable = True
        for other in range(50):
            d["key"] = np.full(size, other)
        del d["key"]
        part = view[1:]
        del view, d
        gc.collect()
        np.testing.assert_array_equal(part, np.arange(1, size))

    def test_memory_of_dropped_views_is_used_again(self):
        d = SharedDict()
        for i in range(300):
            d["key"] = np.full(100_000, float(i))
            assert d["key"][0] == i
        assert d.nbytes < 8_000_000
        d._audit()

    def test_many_views_at_once(self):
        d = SharedDict({i: np.full(200, i) for i in range(3000)})
        views = dict(d)
        d.clear()
        assert all(view[0] == i == view[-1] for i, view in views.items())
        d._audit()
        del views
        d._audit()

    def test_objects_and_subclasses_are_pickled(self):
        class_ = np.ma.MaskedArray
        value = np.ma.array([1, 2], mask=[True, False])
        d = SharedDict(objects=np.array([1, "a", None]), masked=value)
        assert list(d["objects"]) == [1, "a", None]
        assert type(d["masked"]) is class_
        assert type(SharedDict(a=share([1.0]))["a"]) is np.ndarray

    def test_a_large_array(self):
        value = np.random.default_rng(0).random(4_000_000)
        d = SharedDict(key=value)
        assert np.array_equal(d["key"], value)


KEYS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(-3, 3),
        st.floats(allow_nan=False),
        st.sampled_from([0.0, -0.0, 1.0, 2.0**63, -(2.0**63), 1e300, float("inf")]),
        st.text(st.characters(exclude_categories=[])),
        st.binary(),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
)


class TestKeys:
    @given(st.lists(KEYS, max_size=20))
    def test_equal_keys_are_one_key(self, keys):
        ours, theirs = SharedDict(), {}
        for i, key in enumerate(keys):
            ours[key] = theirs[key] = i
        assert ours == theirs
        assert list(ours) == list(theirs)
        assert [type(key) for key in ours] == [type(key) for key in theirs]

    def test_numbers(self):
        d = SharedDict()
        d[True] = "a"
        assert d[1] == d[1.0] == d[np.int64(1)] == d[np.float32(1)] == d[np.True_] == "a"
        assert d[Color.RED] == "a"
        d[1.0] = "b"
        assert list(d.items()) == [(True, "b")]
        d[1, (2.0, None)] = "c"
        assert d[1.0, (2, None)] == d[True, (np.uint8(2), None)] == "c"
        assert repr(list(d)[1]) == "(1, (2.0, None))"
        d[10**300] = d[1e300] = 1
        assert ("1" in d, b"1" in d, "" in d, () in d, 0.5 in d) == (False,) * 5

    def test_nan_is_one_key(self):
        d = SharedDict()
        d[float("nan")] = d[-float("nan")] = 1
        assert len(d) == 1

    def test_text_and_bytes_differ(self):
        d = SharedDict({"a": 1, b"a": 2, ("a",): 3, (b"a",): 4, (("a",),): 5})
        assert list(d.values()) == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("key", [[1], {}, object(), 1j, ([],), np.arange(3), ((1j,),)])
    def test_what_is_no_key(self, key):
        d = SharedDict(a=1)
        for use in (d.__getitem__, d.get, d.pop, d.setdefault, d.__contains__, d.add):
            with pytest.raises(TypeError, match="a key must be a str, bytes, int, float"):
                use(key)
        with pytest.raises(TypeError, match="a key must be"):
            d[key] = 1
        with pytest.raises(TypeError, match="a key must be"):
            del d[key]

    def test_a_tuple_too_deep(self):
        key = ()
        for _ in range(100_000):
            key = (key,)
        with pytest.raises(RecursionError):
            SharedDict()[key] = 1
        while key:
            key = key[0]

    @pytest.mark.parametrize("size", [0, 7, 8, 23, 24, 25, 1000, 300_000])
    def test_long_keys(self, size):
        d = SharedDict()
        for i in range(20):
            d["k" * size + str(i)] = i
        assert list(d) == ["k" * size + str(i) for i in range(20)]
        assert [d["k" * size + str(i)] for i in range(20)] == list(range(20))


class TestMapping:
    def test_it_is_a_mutable_mapping(self):
        assert isinstance(SharedDict(), MutableMapping)
        with pytest.raises(TypeError, match="unhashable"):
            hash(SharedDict())

    def test_made_as_a_dict_is(self):
        assert SharedDict() == {}
        assert SharedDict({"a": 1}, b=2) == {"a": 1, "b": 2}
        assert SharedDict([("a", 1)]) == {"a": 1}
        assert SharedDict(SharedDict(a=1)) == {"a": 1}
        with pytest.raises(TypeError):
            SharedDict(1)
        with pytest.raises(TypeError):
            SharedDict({}, {})

    def test_reading(self):
        d = SharedDict(a=1, b=2)
        assert (d["a"], d.get("b"), d.get("c"), d.get("c", 3)) == (1, 2, None, 3)
        assert "a" in d
        assert "c" not in d
        assert len(d) == 2
        with pytest.raises(KeyError, match="'c'"):
            d["c"]
        with pytest.raises(KeyError) as error:
            d[1, 2]
        assert error.value.args == ((1, 2),)

    def test_views(self):
        d = SharedDict(a=1, b=2)
        assert list(d.keys()) == ["a", "b"]
        assert list(d.values()) == [1, 2]
        assert list(d.items()) == [("a", 1), ("b", 2)]
        assert d.keys() & {"a"} == {"a"}
        assert ("a", 1) in d.items()
        assert 2 in d.values()
        assert repr(d.values()) == "dict_values([1, 2])"
        assert list(reversed(d)) == ["b", "a"]
        assert repr(d) == "SharedDict({'a': 1, 'b': 2})"
        assert f"{SharedDict()}" == "SharedDict({})"

    def test_removing(self):
        d = SharedDict(a=1, b=2, c=[3], d=4)
        del d["a"]
        assert d.pop("c") == [3]
        assert d.pop("c", None) is None
        assert d.popitem() == ("d", 4)
        with pytest.raises(KeyError):
            del d["a"]
        with pytest.raises(KeyError):
            d.pop("a")
        d.clear()
        assert not d
        with pytest.raises(KeyError, match="empty"):
            d.popitem()

    def test_storing(self):
        d = SharedDict()
        assert d.setdefault("a", [1]) == [1]
        assert d.setdefault("a", 2) == [1]
        assert d.setdefault("b") is None
        d.update({"c": 3}, d=4)
        d.update([("e", 5)])
        d |= {"f": 6}
        assert d == {"a": [1], "b": None, "c": 3, "d": 4, "e": 5, "f": 6}
        assert (d | {"a": 0})["a"] == 0
        assert ({"a": 0} | d)["a"] == [1]
        d.update(key=1, function=2, default=3)
        assert d["default"] == 3

    def test_order_is_that_of_insertion(self):
        d = SharedDict()
        for i in range(1000):
            d[i] = i
        d[5] = "kept in its place"
        del d[7]
        d[7] = "now the last"
        assert list(d) == [*range(7), *range(8, 1000), 7]

    def test_changes_while_iterating(self):
        d = SharedDict({i: i for i in range(100)})
        for key in d:
            del d[key]
            d[key + 1000] = key
        assert sorted(d) == list(range(1000, 1100))

    def test_copies_are_plain_dicts(self):
        d = SharedDict(a=[1])
        for made in (d.copy(), d.snapshot(), copy.copy(d), copy.deepcopy(d), dict(d)):
            assert type(made) is dict
            assert made == {"a": [1]}

    def test_equality(self):
        assert SharedDict(a=1) == SharedDict(a=1.0)
        assert SharedDict(a=1) == collections.OrderedDict(a=1)
        assert SharedDict(a=1) != {"a": 2}
        assert SharedDict(a=1) != 1

    def test_arguments(self):
        d = SharedDict()
        for call in (d.get, d.pop, d.setdefault, d.add):
            with pytest.raises(TypeError, match="arguments"):
                call()
            with pytest.raises(TypeError, match="arguments"):
                call(1, 2, 3)

    def test_subclasses(self):
        class Mine(SharedDict):
            def __missing__(self, key):
                raise AssertionError("not called: as of MutableMapping")

        assert repr(Mine(a=1)) == "Mine({'a': 1})"
        with pytest.raises(KeyError):
            Mine()["a"]


class TestSteps:
    def test_add(self):
        d = SharedDict()
        assert d.add("n") == 1
        assert d.add("n", 41) == 42
        assert d.add("n", -(2**63)) == 42 - 2**63
        assert d.add("n", -(2**63)) == 42 - 2**64
        assert d.add("n", 2**64) == 42
        assert d.add("n", 0.5) == 42.5
        assert d.add("x", 0.25) == 0.25
        assert d.add("x", 1) == 1.25
        d["text"] = "a"
        assert d.add("text", "b") == "ab"
        with pytest.raises(TypeError):
            d.add("text", 1)
        d["flag"] = True
        assert d.add("flag") == 2
        d["array"] = np.arange(3)
        assert list(d.add("array", 1)) == [1, 2, 3]
        assert type(d.add("n", np.float64(1))) is np.float64

    def test_update_by_a_function(self):
        d = SharedDict(a=[1])
        assert d.update("a", lambda old: [*old, 2]) == [1, 2]
        assert d.update("b", lambda old: old + 1, 10) == 11
        assert d.update("c", lambda old: old + 1, default=0) == 1
        with pytest.raises(KeyError, match="missing"):
            d.update("missing", len)
        with pytest.raises(TypeError, match="a key and a int"):
            d.update("a", 5)
        with pytest.raises(ZeroDivisionError):
            d.update("b", lambda old: 1 / 0)
        assert d == {"a": [1, 2], "b": 11, "c": 1}

    def test_update_is_called_again_when_another_was_first(self):
        d, calls = SharedDict(a=0), []

        def function(old):
            calls.append(old)
            if len(calls) < 4:
                d["a"] = old + 10
            return old + 1

        assert d.update("a", function) == 31
        assert calls == [0, 10, 20, 30]

    def test_compare_and_set(self):
        d = SharedDict(a=1, b=np.arange(3))
        assert not d.compare_and_set("a", 2, 3)
        assert d.compare_and_set("a", 1, 3)
        assert not d.compare_and_set("missing", None, 3)
        assert d.compare_and_set("b", [0, 1, 2], 4)
        assert d == {"a": 3, "b": 4}

    def test_editing(self):
        d = SharedDict(a=[1], array=np.zeros(3))
        with d.editing("a") as value:
            value.append(2)
            assert d["a"] == [1]
            d["other"] = 1
        with d.editing("array") as array:
            array[1] = 5
        with d.editing("new", {}) as value:
            value["x"] = 1
        assert d["a"] == [1, 2]
        assert list(d["array"]) == [0, 5, 0]
        assert d["new"] == {"x": 1}
        assert len(d) == 4

    def test_editing_that_fails_stores_nothing(self):
        d = SharedDict(a=[1])
        with pytest.raises(ZeroDivisionError), d.editing("a") as value:
            value.append(1 / 0)
        with pytest.raises(KeyError), d.editing("missing"):
            pass
        with (
            d.editing("a"),
            pytest.raises(RuntimeError, match="editing 'a' already"),
            d.editing("a"),
        ):
            pass
        with d.editing("a") as value:
            value.append(2)
        assert d == {"a": [1, 2]}

    def test_allow_pickle(self):
        d = SharedDict(allow_pickle=False)
        assert not d.allow_pickle
        d.update(dict(enumerate(v for v in PLAIN_VALUES if v != "\ud800")))
        d["array"] = np.zeros(3, "f4,i2")
        for value in ([1], np.array([None]), 1j, "\ud800", np.float64(1)):
            with pytest.raises(TypeError, match="allow_pickle=False: a value must be"):
                d["key"] = value
        assert "key" not in d


class Machine(RuleBasedStateMachine):
    """A SharedDict and a dict, of which the same is asked."""

    keys = st.one_of(
        st.integers(0, 5), st.sampled_from(["a", "b" * 30, (1, "x" * 20)]), st.floats(0, 3)
    )
    values = st.one_of(
        st.integers(), st.text(), st.lists(st.integers()), st.binary(max_size=3000)
    )

    def __init__(self):
        super().__init__()
        self.ours, self.theirs = SharedDict(), {}

    @rule(key=keys, value=values)
    def set(self, key, value):
        self.ours[key] = self.theirs[key] = value

    @rule(key=keys)
    def pop(self, key):
        assert self.ours.pop(key, None) == self.theirs.pop(key, None)

    @rule(key=keys, value=values)
    def setdefault(self, key, value):
        assert self.ours.setdefault(key, value) == self.theirs.setdefault(key, value)

    @rule()
    def popitem(self):
        if self.theirs:
            assert self.ours.popitem() == self.theirs.popitem()

    @rule()
    def clear(self):
        self.ours.clear()
        self.theirs.clear()

    @invariant()
    def same(self):
        assert list(self.ours.items()) == list(self.theirs.items())
        assert len(self.ours) == len(self.theirs)
        self.ours._audit()


TestMachine = Machine.TestCase


class TestThreads:
    def test_all_steps_are_kept(self):
        d = SharedDict(list=[])
        errors = []

        def work(i):
            try:
                for step in range(300):
                    d.add("n")
                    d.update("m", lambda old: old + 1, 0)
                    with d.editing("list") as value:
                        value.append((i, step))
                    d[i] = np.full(300, step)
                    assert d[i][0] == step
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert d["n"] == d["m"] == len(d["list"]) == 1200
        d._audit()

    def test_who_writes_waits_for_who_edits(self):
        d, order = SharedDict(a=1), []
        inside = threading.Event()

        def write():
            inside.wait()
            d["a"] = "written"
            order.append("written")

        thread = threading.Thread(target=write)
        thread.start()
        with d.editing("a"):
            inside.set()
            thread.join(0.2)
            assert d["a"] == 1
            order.append("edited")
        thread.join()
        assert order == ["edited", "written"]
        assert d["a"] == "written"

    def test_a_snapshot_is_of_one_moment(self):
        d = SharedDict(a=0, b=0)
        stop = threading.Event()

        def count():
            n = 0
            while not stop.is_set():
                n += 1
                d["a"] = n
                d["b"] = n

        thread = threading.Thread(target=count)
        thread.start()
        for _ in range(500):
            moment = d.snapshot()
            assert moment["b"] <= moment["a"] <= moment["b"] + 1
        stop.set()
        thread.join()


def test_shared_arrays_are_stored_by_value():
    array = share(np.arange(1000.0))
    d = SharedDict(a=array)
    array[0] = 99
    assert d["a"][0] == 0
    assert not isinstance(d["a"], SharedArray)

"""What the children of these tests do: at the top of a module, so that spawn finds it."""

from __future__ import annotations

import os
import random
import signal
import time

import numpy as np


def store(shared, i):
    shared[i] = os.getpid()


def count(shared, steps):
    for _ in range(steps):
        shared.add("n")


def append(shared, i):
    with shared.editing("list", []) as value:
        value.append(i)
    shared.update("set", lambda old: old | {i}, frozenset())
    return i


def hash_of_text(shared, text):
    shared[text, "hash"] = hash(text)
    return shared[text]


def type_of(shared):
    return type(shared).__name__, shared.allow_pickle


def write_for_ever(shared, seed):
    """Do everything that writes, until it is killed."""
    rng = random.Random(seed)
    values = [1, 2.5, "x" * 10, "y" * 100, "z" * 3000, [1, 2], None]
    kept = []
    while True:
        key = rng.choice([rng.randrange(30), "long key " * 5 + str(rng.randrange(30))])
        step = rng.randrange(9)
        if step < 3:
            shared[key] = rng.choice(values)
        elif step == 3:
            shared.pop(key, None)
        elif step == 4:
            shared.add(("n", rng.randrange(3)))
        elif step == 5:
            size = rng.randrange(1, 3000)
            shared[key] = np.full(size, size)
            kept = [*kept[-20:], shared.get(key)]
        elif step == 6:
            with shared.editing(("edit", rng.randrange(3)), []) as value:
                value[:] = [seed]
        elif step == 7:
            shared.snapshot()
        else:
            value = shared.get(key)
            if isinstance(value, np.ndarray):
                assert value[0] == value[-1] == len(value)


def hold_and_die(lock, sent):
    lock.acquire()
    sent.send(os.getpid())
    sent.close()
    signal.pause()


def edit_and_die(shared, sent):
    with shared.editing("key"):
        sent.send(1)
        signal.pause()


def fill(array, value):
    array[...] = value


def double_first(array):
    array[0] *= 2
    return float(array.sum())


def add_under(lock, array, steps):
    for _ in range(steps):
        with lock:
            value = array[0]
            time.sleep(0)
            array[0] = value + 1


def give_back(array):
    return array


def make_array(n):
    from pydistrib import share

    return share(np.arange(float(n)))


def make_dict(n):
    from pydistrib import SharedDict

    return SharedDict({i: i for i in range(n)})

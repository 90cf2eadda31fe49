"""A buffer that anybody still looks at is never lent again."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ingest.load.read.buffers import Buffers
from ingest.testing.examples import examples

FLOAT = np.dtype(np.float32)


class Holder:
    def __init__(self, array):
        self.array = array


HOLD = {
    "the array": lambda a: a,
    "a slice": lambda a: a[3:9],
    "a slice of a slice": lambda a: a[1:][2:8:2],
    "a view of another type": lambda a: a.view(np.uint8)[4:],
    "a reshaped view": lambda a: a[:8].reshape(2, 4).T,
    "a scalar's view": lambda a: a[5:6].reshape(()),
    "a memoryview": lambda a: memoryview(a)[2:],
    "a memoryview of a view": lambda a: memoryview(memoryview(a[2:]).cast("B")),
    "an array over a memoryview": lambda a: np.frombuffer(memoryview(a), np.float32)[1:],
    "an iterator": iter,
    "a flat iterator": lambda a: a.flat,
    "a broadcast view": lambda a: np.broadcast_to(a[2:3], (3, 3)),
    "a sliding window": lambda a: np.lib.stride_tricks.sliding_window_view(a, 3),
    "a sub-class": lambda a: a.view(np.recarray),
    "a masked array": lambda a: np.ma.MaskedArray(a, copy=False),
    "a tensor": torch.from_numpy,
    "a slice of a tensor": lambda a: torch.from_numpy(a)[3:][::2],
    "a tensor's storage": lambda a: torch.from_numpy(a).untyped_storage(),
    "a detached tensor": lambda a: torch.from_numpy(a).detach().view(-1, 1),
    "the numpy of a tensor": lambda a: torch.from_numpy(a[1:]).numpy()[2:],
    "a tensor by dlpack": lambda a: torch.from_dlpack(a),
    "numpy of a tensor by dlpack": lambda a: np.from_dlpack(torch.from_numpy(a)),
    "a bytes-like ctypes object": lambda a: (ctypes.c_char * a.nbytes).from_buffer(a),
    "an attribute": Holder,
    "a closure": lambda a: lambda: a,
    "a container": lambda a: {"x": [(a[2:],)]},
    "a cycle": lambda a: (cycle := [a[2:]]).append(cycle) or cycle,
}


@pytest.mark.parametrize("how", HOLD)
def test_what_holds_it_keeps_it(how):
    buffers = Buffers()
    first = buffers.lend(20, FLOAT)
    first[:] = 7
    address = first.ctypes.data
    copy = weakref.ref(first.base)
    held = HOLD[how](first)
    del first
    for _ in range(30):
        other = buffers.lend(20, FLOAT)
        assert other.ctypes.data != address
        other[:] = -1
    assert copy() is not None
    del held
    if how == "a cycle":
        gc.collect()
    assert address in {buffers.lend(20, FLOAT).ctypes.data for _ in range(20)} or copy() is None


def test_it_is_lent_again_when_nobody_looks():
    buffers = Buffers()
    addresses = {buffers.lend(1000, FLOAT).ctypes.data for _ in range(50)}
    assert len(addresses) <= 2


def test_a_smaller_one_is_cut_from_a_larger_and_a_far_larger_is_spared():
    buffers = Buffers()
    large = buffers.lend(100_000, FLOAT).ctypes.data
    assert buffers.lend(90_000, FLOAT).ctypes.data == large
    assert buffers.lend(10_000, FLOAT).ctypes.data != large


def test_the_one_that_fits_best():
    buffers = Buffers()
    sizes = [40_000, 30_000, 50_000]
    held = [buffers.lend(size, FLOAT) for size in sizes]
    addresses = [array.ctypes.data for array in held]
    del held
    assert buffers.lend(29_000, FLOAT).ctypes.data == addresses[1]


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64, np.uint8])
def test_types_and_sizes(dtype):
    buffers = Buffers()
    for n in (0, 1, 7, 1000):
        found = buffers.lend(n, np.dtype(dtype))
        assert (found.dtype, found.shape, found.flags.writeable, found.flags.aligned) == (dtype, (n,), True, True)


def test_no_more_are_kept_than_said():
    buffers = Buffers(most=3)
    held = [buffers.lend(100_000, FLOAT) for _ in range(10)]
    kept = [weakref.ref(array.base) for array in held]
    del held
    assert sum(ref() is not None for ref in kept) <= 3


def test_many_threads():
    """Each writes its own number into what it was lent and finds it there afterwards."""
    buffers, wrong = Buffers(4), []

    def work(number):
        rng = np.random.default_rng(number)
        kept = []
        for _ in range(400):
            array = buffers.lend(int(rng.integers(1, 4000)), FLOAT)
            array[:] = number
            kept.append(array[len(array) // 2 :])
            if len(kept) > 3:
                part = kept.pop(0)
                if not (part == number).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Lending(RuleBasedStateMachine):
    """Whatever is lent, viewed and let go of, in whatever order: what is held never changes."""

    @initialize(most=st.integers(1, 5))
    def begin(self, most):
        self.buffers, self.held, self.count = Buffers(most), [], 0

    @rule(n=st.integers(0, 30_000), how=st.sampled_from(["the array", "a slice", "a tensor", "a memoryview"]))
    def lend(self, n, how):
        array = self.buffers.lend(n, FLOAT)
        self.count += 1
        array[:] = self.count
        self.held.append((HOLD[how](array), self.count))

    @rule(data=st.data())
    def let_go(self, data):
        if self.held:
            del self.held[data.draw(st.integers(0, len(self.held) - 1))]

    @rule(data=st.data())
    def look_at_a_part(self, data):
        if self.held:
            at = data.draw(st.integers(0, len(self.held) - 1))
            view, number = self.held[at]
            self.held[at] = view[len(view) // 2 :], number

    @invariant()
    def nothing_held_has_changed(self):
        for view, number in self.held:
            assert (np.asarray(view) == number).all()


TestLending = Lending.TestCase
TestLending.settings = settings(max_examples=examples(12), stateful_step_count=30, deadline=None)

from __future__ import annotations

import os
import signal

import pytest

from ingest.interrupt import Interrupt

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_asks_and_the_second_ends(number):
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_one_of_each_is_two():
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def _fail_inside():
    with Interrupt() as interrupt:
        assert signal.getsignal(signal.SIGINT) == interrupt._handle
        raise ZeroDivisionError


def test_handlers_are_as_before_whatever_happened():
    before = [signal.getsignal(number) for number in BOTH]
    with pytest.raises(ZeroDivisionError):
        _fail_inside()
    assert [signal.getsignal(number) for number in BOTH] == before

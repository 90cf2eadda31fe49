import datetime as dt
import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import ConfigError, CorruptError, TransientError
from ingest.retry import Budget, Retrier, retry_after_s


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def retrier(self, budget):
        # The longest pause of each draw, so that the bounds show.
        return Retrier(budget, sleep=self.sleep, clock=lambda: self.now, uniform=lambda _, high: high)


@pytest.fixture
def clock():
    return Clock()


def failing(*errors):
    """Raise one error a call, then return how many there were."""

    def operation(earlier):
        if earlier < len(errors):
            raise errors[earlier]
        return earlier

    return operation


def test_success_sleeps_never(clock):
    retrier = clock.retrier(Budget())
    assert retrier.call(failing()) == 0
    assert (clock.slept, retrier.retries) == ([], 0)


def test_pauses_double_up_to_the_most(clock):
    retrier = clock.retrier(Budget(attempts=6, first_s=1.0, most_s=5.0))
    assert retrier.call(failing(*[TransientError("busy")] * 5)) == 5
    assert clock.slept == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert retrier.retries == 5


def test_attempts_are_bounded_exactly(clock):
    retrier, tried = clock.retrier(Budget(attempts=4)), []

    def operation(earlier):
        tried.append(earlier)
        raise TransientError("busy")

    with pytest.raises(TransientError):
        retrier.call(operation)
    assert tried == [0, 1, 2, 3]
    assert retrier.retries == 3


def test_time_is_bounded(clock):
    retrier = clock.retrier(Budget(attempts=1000, total_s=10.0, first_s=1.0, most_s=4.0))
    with pytest.raises(TransientError):
        retrier.call(failing(*[TransientError("busy")] * 999))
    assert sum(clock.slept) <= 10.0


def test_the_servers_wish_is_honoured(clock):
    retrier = clock.retrier(Budget(first_s=0.5))
    retrier.call(failing(TransientError("slow down", retry_after_s=7.0)))
    assert sum(clock.slept) >= 7.0


def test_a_wish_beyond_the_budget_is_passed_on_at_once(clock):
    with pytest.raises(TransientError) as caught:
        clock.retrier(Budget(total_s=60.0)).call(failing(TransientError("slow down", retry_after_s=3600.0)))
    assert caught.value.retry_after_s == 3600.0
    assert clock.slept == []


@pytest.mark.parametrize(
    ("error", "least"),
    [
        (TransientError("slow down", retry_after_s=9.0), 9.0),
        (TransientError("slow down", kind="throttled"), 0.5),
        (TransientError("no answer", kind="unreachable"), 0.0),
    ],
)
def test_what_an_overloaded_store_says_holds_for_other_operations_too(clock, error, least):
    retrier = clock.retrier(Budget(first_s=0.5))
    started = []

    def throttled(earlier):
        if earlier == 0:
            # Another thread's operation begins while this one is being told to wait.
            raise error
        return retrier.call(lambda _: started.append(clock.now))

    begin = clock.now
    retrier._sleep = lambda _: None  # this thread does not wait; the shared pause is what is looked at
    retrier.call(throttled)
    assert started
    retrier._sleep = clock.sleep
    retrier.call(lambda _: started.append(clock.now))
    assert started[-1] >= begin + least
    assert least or started[-1] == begin


def test_damage_is_tried_three_times(clock):
    retrier = clock.retrier(Budget())
    assert retrier.call(failing(CorruptError("flipped"), CorruptError("flipped"))) == 2
    with pytest.raises(CorruptError):
        retrier.call(failing(*[CorruptError("flipped")] * 3))


def test_other_trouble_does_not_use_up_the_tries_of_damage(clock):
    errors = [TransientError("busy"), TransientError("busy"), CorruptError("flipped"), CorruptError("flipped")]
    assert clock.retrier(Budget()).call(failing(*errors)) == 4


def test_a_short_read_is_not_tried_again(clock):
    with pytest.raises(CorruptError):
        clock.retrier(Budget()).call(failing(CorruptError("short", kind="short-read")))


def test_other_errors_pass_through(clock):
    with pytest.raises(ConfigError):
        clock.retrier(Budget()).call(failing(ConfigError("no")))


def test_retry_after_headers():
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=100)
    assert retry_after_s("12") == 12.0
    assert 90 < retry_after_s(email.utils.format_datetime(soon, usegmt=True)) <= 100
    assert retry_after_s("Sun, 06 Nov 1994 08:49:37 GMT") == 0.0
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("9" * 400, None),
        ("9" * 30, 86_400.0),
        ("86401", 86_400.0),
        ("-5", None),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2030 00:00:00 +9999999999", None),
        ("nan", None),
        ("", None),
    ],
)
def test_a_wish_that_no_clock_holds_is_none_and_a_long_one_a_day(header, wish):
    assert retry_after_s(header) == wish


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,20} \d\d:\d\d:\d\d [+-]?\w{1,12}")
)
def test_whatever_a_server_says_can_be_slept_and_recorded(header):
    wish = retry_after_s(header)
    assert wish is None or 0.0 <= wish <= 86_400.0


def test_each_pause_is_logged_with_its_cause(clock, caplog):
    caplog.set_level("INFO", "ingest.retry")
    clock.retrier(Budget()).call(failing(TransientError("https://me:pw@b/k: 503", kind="throttled", key="k")))
    (record,) = caplog.records
    assert (record.event, record.fields) == ("retry", {"kind": "throttled", "key": "k"})
    assert "https://***@b/k: 503" in record.getMessage()

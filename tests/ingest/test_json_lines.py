"""Log lines as JSON: whatever is said, by whom, from which thread: one object, one line, masked."""

from __future__ import annotations

import json
import logging
import threading
import warnings

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from ingest.ahead import Ahead
from ingest.json_lines import (
    JsonLines,
    about,
    adopt_logger,
    json_lines_are_on,
    log_event,
    start_json_lines,
    stop_json_lines,
)
from ingest.testing.examples import examples

LOG = logging.getLogger("ingest.somewhere")


@pytest.fixture
def lines(capsys):
    start_json_lines(run="r1")
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    stop_json_lines()


def test_a_line_says_when_what_and_about_what(lines):
    with about(unit=3, attempt="r1-0000003"):
        log_event(LOG, "chunk-committed", "1,000 cells", chunk=7, kind=None)
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "event": "chunk-committed",
        "run": "r1",
        "unit": 3,
        "attempt": "r1-0000003",
        "chunk": 7,
        "message": "1,000 cells",
    }


def test_what_libraries_log_and_warn_is_json_too(lines):
    logging.getLogger("botocore").warning("slow\ndown %s", "now")
    logging.getLogger("botocore").info("chatter")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    LOG.error("broken", exc_info=ValueError("https://user:pass@host/x?X-Amz-Signature=abc"))
    slow, old, broken = lines()
    assert (slow["event"], slow["logger"], slow["message"]) == ("log", "botocore", "slow\ndown now")
    assert "DeprecationWarning: old" in old["message"]
    assert "user:pass" not in broken["traceback"]
    assert "abc" not in broken["traceback"]
    assert "ValueError" in broken["traceback"]


def test_threads_that_read_ahead_say_what_they_are_about(lines):
    def items():
        log_event(LOG, "read", "")
        yield 1

    with about(unit=5):
        ahead = Ahead(items())
    assert list(ahead) == [1]
    other = threading.Thread(target=log_event, args=(LOG, "other", ""))
    other.start()
    other.join()
    read, stranger = lines()
    assert read["unit"] == 5
    assert "unit" not in stranger


def test_a_logger_that_writes_by_itself_is_adopted_and_given_back(lines):
    own = logging.StreamHandler()
    logger = logging.getLogger("writes-by-itself")
    logger.handlers, logger.propagate = [own], False
    adopt_logger("writes-by-itself")
    logger.error("said")
    assert [line["message"] for line in lines()] == ["said"]
    stop_json_lines()
    assert logger.handlers == [own]
    assert not logger.propagate
    logger.handlers = []


def test_it_ends_without_a_trace(capsys):
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("ingest").level
    start_json_lines()
    start_json_lines()
    assert json_lines_are_on()
    LOG.info("once")
    stop_json_lines()
    LOG.info("never")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("ingest").level == level
    assert not json_lines_are_on()


TEXTS = st.text(max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(TEXTS, LEAVES, max_size=2)


@settings(max_examples=examples(30), phases=[Phase.explicit, Phase.generate])
@given(message=TEXTS, fields=st.dictionaries(TEXTS, VALUES, max_size=3))
@example("\x85\u2028\n", {"a\r": "b\x0c"})
@example("\ud800", {"event": float("nan")})
def test_whatever_is_said_is_one_line_of_json(message, fields):
    record = logging.LogRecord("ingest", logging.INFO, "", 0, "%s", (message,), None)
    record.event, record.fields = "e", fields
    line = JsonLines().format(record)
    assert len(line.splitlines()) == 1
    said = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {"time", "level", "event", "message"} <= said.keys()

"""``status --watch`` beside a run, before one, after one, and when somebody has had enough of it."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from ingest.cli.watch import _screen
from ingest.settings import DataSettings
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.watching import Look, Watched

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., tuple[int, str, str]]

CHUNKS = DataSettings(cells_per_chunk=10)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=1))


def test_a_watch_that_begins_before_the_run_ends_with_it(run, index, tmp_path):
    dest = str(tmp_path / "d")
    looked = threading.Event()
    maker = threading.Thread(target=lambda: (looked.wait(60), make_dataset(dest, index, data=CHUNKS)))
    maker.start()
    threading.Timer(0.3, looked.set).start()
    code, out, err = run("status", dest, "--watch", "--every", 0.1)
    maker.join()
    assert code == 0
    assert err.splitlines()[0] == "Watch    no plan yet: waiting for a run to begin"
    assert err.splitlines()[-1] == "Watch    3/3 chunks  30/30 cells  complete"
    assert out.startswith(f"{dest}: complete\n")


def test_a_dataset_that_is_complete_is_looked_at_once(run, index, tmp_path):
    make_dataset(str(tmp_path / "d"), index, data=CHUNKS)
    code, out, err = run("status", tmp_path / "d", "--watch", "--json")
    assert code == 0
    assert json.loads(out)["complete"] is True
    assert len(err.splitlines()) == 1


@pytest.fixture
def unfinished(index, tmp_path):
    make_dataset(str(tmp_path / "d"), index, data=CHUNKS)
    (tmp_path / "d" / "_SUCCESS.json").unlink()
    (tmp_path / "d" / "_ingest" / "receipts" / "000000001-000000001.json").unlink()
    return tmp_path / "d"


def test_no_run_at_work_is_said_and_ends_it(run, unfinished):
    code, out, err = run("status", unfinished, "--watch", "--every", 0.1, "--patience", 0.3)
    assert code == 3
    assert "Watch    2/3 chunks  20/30 cells  no run is at work: waiting for one to begin" in err
    assert "incomplete" in out
    assert f"next         python -m ingest run {unfinished}" in out


def test_a_killed_run_is_not_waited_for_for_ever(run, unfinished):
    (end,) = (unfinished / "_ingest" / "runs").rglob("end.json")
    end.unlink()
    code, _, err = run("status", unfinished, "--watch", "--every", 0.1, "--patience", 0.3)
    assert code == 3
    assert err.splitlines()[:-1] == ["Watch    2/3 chunks  20/30 cells  1 run at work, 3 units begun"]
    assert err.splitlines()[-1] == "Watch    no sign of life for 1 s: the run was killed, or is stuck"


def test_a_killed_run_before_one_that_ended_is_said_and_not_waited_for(run, unfinished, monkeypatch):
    monkeypatch.setattr("ingest.watching._SUCCESSOR_S", 0.2)
    (unfinished / "_ingest" / "runs" / "20200101T000000-killed").mkdir()
    (unfinished / "_ingest" / "runs" / "20200101T000000-killed" / "start.json").write_text("{}")
    code, _, err = run("status", unfinished, "--watch", "--every", 0.1)
    assert code == 3
    assert "no run is at work, 1 without an end: waiting for one to begin" in err
    assert err.splitlines()[-1] == (
        "Watch    no run is at work any more, 1 without an end, and the dataset is not complete"
    )


def test_a_plan_that_never_comes(run, tmp_path):
    code, out, err = run("status", tmp_path / "none", "--watch", "--every", 0.1, "--patience", 0.2)
    assert (code, out) == (3, "")
    assert err.splitlines()[-1] == f"error: {tmp_path / 'none'}: no run has begun; nothing has changed for 1 s"


def test_a_plan_that_never_comes_is_said_as_json_too(run, tmp_path):
    code, out, _ = run("status", tmp_path / "none", "--watch", "--json", "--every", 0.1, "--patience", 0.2)
    found = json.loads(out)
    assert (code, found["verdict"], found["complete"], found["trouble"]) == (3, "quiet", False, None)
    assert found["url"] == str(tmp_path / "none")


def test_ctrl_c_ends_the_watch_and_says_nothing(run, unfinished, monkeypatch):
    def interrupted(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("ingest.watching.time.sleep", interrupted)
    code, out, err = run("status", unfinished, "--watch")
    assert (code, out) == (130, "")
    assert len(err.splitlines()) == 1


def test_on_a_terminal_one_screen_is_drawn_again(run, unfinished, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    code, _, err = run("status", unfinished, "--watch", "--every", 0.1, "--patience", 0.3)
    assert code == 3
    assert err.count("\x1b[1A\x1b[2K") > 5, "lines are gone back over"
    assert "━━━━━━━━━━━━━━━━━━━━╌╌╌╌╌╌╌╌╌╌  66.7 %" in err


def test_lines_are_json_where_that_is_asked_for(run, unfinished):
    _, _, err = run("status", unfinished, "--watch", "--every", 0.1, "--patience", 0.2, "--log-format", "json")
    lines = [json.loads(line) for line in err.splitlines()]
    assert lines[0]["event"] == "watch"
    assert (lines[0]["chunks_done"], lines[0]["cells"], lines[0]["verdict"]) == (2, 30, "waiting")
    assert lines[-1]["event"] == "summary"
    assert lines[-1]["exit_code"] == 3


@pytest.mark.parametrize("option", ["--every", "--patience"])
def test_what_means_nothing_without_watching_is_refused(run, unfinished, option):
    code, _, err = run("status", unfinished, option, 5)
    assert code == 2
    assert err.startswith(f"error: {option} means nothing without --watch")


def look(**more):
    facts = {"n_chunks": 8, "n_done": 2, "n_cells": 4000, "cells_done": 1000, "open_runs": ("r",), "n_begun": 3}
    return Look(**{**facts, "n_failures": 0, "complete": False, **more})


@pytest.mark.parametrize(
    ("watched", "said"),
    [
        (Watched(look(), None, 50.0, 3.0, "going"), ["50 cells/s  about 60 s left", "1 run at work, 3 units begun"]),
        (Watched(look(), None, None, 3.0, "going"), ["nothing has come since the watch began"]),
        (Watched(look(), None, 0.001, 200.0, "going"), ["or killed: 3 units begun, no sign of life for 3 min"]),
        (Watched(look(n_failures=1), None, None, 3.0, "going"), ["3 units begun, 1 failure on record"]),
        (Watched(look(n_without_end=2), None, None, 3.0, "going"), ["1 run at work, 3 units begun; 2 without an end"]),
        (Watched(look(open_runs=(), n_done=8), None, None, 3.0, "waiting"), ["waiting for the summaries"]),
        (Watched(None, "s3://b: 503", None, 3.0, "waiting"), ["no answer: s3://b: 503"]),
        (Watched(look(n_cells=0, cells_done=0), None, None, 3.0, "going"), ["0.0 %"]),
    ],
)
def test_the_screen_tells_what_can_be_told(watched, said):
    lines = _screen("./d", watched)
    assert lines[0] == "./d"
    assert len(lines) <= 10
    for text in said:
        assert any(text in line for line in lines), lines

"""``--log-format json``: every line of stderr an object, each with its ids, the last one the summary."""

from __future__ import annotations

import json
import logging
import signal
from typing import TYPE_CHECKING

import click
import pytest

from ingest.cli.main import cli, main
from ingest.json_lines import json_lines_are_on
from ingest.ledger.ledger import Ledger
from ingest.store.open import open_store
from ingest.testing.datasets import write_h5ad_index, write_sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JSON = ("--log-format", "json")


class Said:
    """What a command wrote, its stderr as objects."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out = code, out
        self.lines = [json.loads(line) for line in err.splitlines()]
        for line in self.lines:
            assert {"time", "level", "event", "message"} <= line.keys()

    def of(self, event: str) -> list[dict]:
        return [line for line in self.lines if line["event"] == event]

    @property
    def summary(self) -> dict:
        assert [line["event"] for line in self.lines].index("summary") == len(self.lines) - 1
        return self.lines[-1]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert not json_lines_are_on()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return call


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return write_h5ad_index(tmp_path / "index.feather", write_sources(tmp_path / "sources", n_files=1))


def test_a_run_from_its_plan_to_its_summary(run, index, tmp_path):
    said = run("run", tmp_path / "d", "--index", index, "-c", 10, "--pool", "serial", *JSON)
    assert said.code == 0
    (plan,), (began,) = said.of("plan"), said.of("run-began")
    assert (plan["chunks"], plan["missing_cells"]) == (3, 30)
    assert (began["dest"], began["chunks"], began["command"]) == (str(tmp_path / "d"), 3, "run")
    submitted, settled = said.of("unit-submitted"), said.of("unit-settled")
    attempts = {line["attempt"] for line in submitted}
    assert attempts == {line["attempt"] for line in settled}
    assert all(attempt.startswith(began["run"]) for attempt in attempts)
    assert sum(line["chunks_done"] for line in settled) == 3
    assert sum(line["cells"] for line in settled) == 30
    assert said.of("progress")[-1]["cells"] == 30
    at = said.lines.index(began)
    assert {line["run"] for line in said.lines[at:]} == {began["run"]}
    assert said.summary["run"] == began["run"]
    assert (said.summary["command"], said.summary["exit_code"], said.summary["cells"]) == ("run", 0, 30)
    assert "cells 30" in said.out, "results stay where they are"


def test_workers_say_which_chunk_of_which_unit(run, index, tmp_path):
    said = run("run", tmp_path / "d", "--index", index, "-c", 10, "--pool", "serial", *JSON)
    committed = said.of("chunk-committed")
    assert sorted(line["chunk"] for line in committed) == [0, 1, 2]
    receipts = {
        chunk.chunk: receipt.attempt
        for receipt in Ledger(open_store(str(tmp_path / "d"))).receipts()
        for chunk in receipt.chunks
    }
    assert {line["chunk"]: line["attempt"] for line in committed} == receipts
    for event in ("unit-began", "unit-ended"):
        assert {line["attempt"] for line in said.of(event)} == set(receipts.values())


def test_failures_have_ids_kind_and_source(run, index, tmp_path):
    run("run", tmp_path / "d", "--index", index, "-c", 10, "--pool", "serial", *JSON)
    chunk = tmp_path / "d" / "chunks" / "chunk_000001.h5ad"
    chunk.unlink()
    source = tmp_path / "sources" / "sample0.h5ad"
    source.write_bytes(source.read_bytes()[:2000])
    said = run("repair", tmp_path / "d", "--pool", "serial", *JSON)
    assert said.code != 0
    (failure,), (failed,) = said.of("failure"), said.of("chunk-failed")
    assert failure["chunk"] == failed["chunk"] == 1
    assert failure["attempt"] == failed["attempt"]
    assert failure["kind"] == failed["kind"]
    assert failure["handling"] == "source"
    assert "sample0.h5ad" in failure["source"]
    assert (failure["level"], failure["retried"]) == ("error", False)
    assert said.summary["exit_code"] == said.code
    status = run("status", tmp_path / "d", *JSON)
    assert (status.code, status.summary["complete"]) == (3, False)
    verified = run("verify", tmp_path / "d", *JSON)
    assert verified.summary["bad"] == [1]
    assert verified.of("verify")


@pytest.mark.parametrize(
    ("arguments", "kind", "code"),
    [
        (("run", "d", "--no-such-option", *JSON), "usage", 2),
        (("run", "d", "--index", "none.feather", "--log-format=json"), "no-index", 2),
        (("nonsense", *JSON), "usage", 2),
        (("status", "nowhere", *JSON), "no-plan", 2),
        (("run", "d", "-c", "many", *JSON), "usage", 2),
    ],
)
def test_errors_are_objects_too(run, tmp_path, monkeypatch, arguments, kind, code):
    monkeypatch.chdir(tmp_path)
    said = run(*arguments)
    assert said.code == code
    (error,) = said.of("error")
    assert (error["level"], error["kind"]) == ("error", kind)
    assert error["hint"]
    assert said.summary["exit_code"] == code


def test_an_unforeseen_error_and_its_traceback_are_masked(run, monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("https://me:secret@host/ has gone")

    monkeypatch.setattr("ingest.store.open.open_store", broken)
    said = run("status", "d", "--debug", *JSON)
    assert said.code == 1
    assert said.of("error")[0]["message"] == "unforeseen: RuntimeError: https://***@host/ has gone"
    assert "RuntimeError" in said.of("traceback")[0]["message"]
    assert "secret" not in json.dumps(said.lines)


def test_it_may_be_asked_for_in_the_environment_and_in_a_file(run, index, tmp_path, monkeypatch, capsys):
    config = tmp_path / "run.toml"
    config.write_text('log-format = "json"\ncells-per-chunk = 10\n')
    assert run("run", tmp_path / "d", "--index", index, "--dry-run", "--config", config).summary["exit_code"] == 0
    monkeypatch.setenv("CELL_INGEST_LOG_FORMAT", "json")
    assert run("status", tmp_path / "none").summary["exit_code"] == 2
    with pytest.raises(SystemExit):
        main(["status", str(tmp_path / "none"), "--log-format", "text"])
    assert capsys.readouterr().err.startswith("error: ")


def test_another_format_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["status", "d", "--log-format", "xml"])
    assert ended.value.code == 2
    assert "'xml' is not one of 'text', 'json'" in capsys.readouterr().err


def test_stopped_at_once_is_said_in_json(run, monkeypatch):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    def gone(code):
        raise SystemExit(code)  # the process, where a unit is at work in a thread

    monkeypatch.setattr("ingest.store.open.open_store", interrupted)
    monkeypatch.setattr("ingest.cli.main.leave_units", gone)
    said = run("verify", "d", *JSON)
    assert said.code == said.summary["exit_code"] == 130
    assert said.of("error")[0]["message"] == "stopped at once"


def test_a_job_that_is_stopped_while_it_plans_says_so_last(run, index, tmp_path, monkeypatch):
    """`ray job stop` sends SIGTERM, which would end the process without a word where no unit is at work yet."""

    monkeypatch.setattr("ingest.cells.read_cells", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    said = run("run", tmp_path / "d", "--index", index, "--pool", "serial", *JSON)
    assert (said.code, said.summary["exit_code"]) == (130, 130)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_an_interrupted_run_says_how_far_it_came(run, index, tmp_path, monkeypatch):
    """Ctrl-C as the first unit is handed out: it is finished, and nothing else is begun."""
    from ingest.serial_pool import SerialPool

    submit = SerialPool.submit

    def stop(pool, task, *, deadline_s):
        submit(pool, task, deadline_s=deadline_s)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SerialPool, "submit", stop)
    said = run("run", tmp_path / "d", "--index", index, "-c", 5, "--pool", "serial", *JSON)
    assert said.code == said.summary["exit_code"] == 130
    assert said.of("run-ended")[0]["outcome"] == "interrupted"
    assert any(line["message"].startswith("stopped: ") for line in said.of("note"))


def test_every_command_has_the_option():
    commands = [command for command in walk(cli) if not isinstance(command, click.Group)]
    assert len(commands) > 15
    for command in commands:
        assert "--log-format" in {name for parameter in command.params for name in parameter.opts}, command.name


def walk(command: click.Command) -> Iterator[click.Command]:
    yield command
    for one in command.commands.values() if isinstance(command, click.Group) else ():
        yield from walk(one)


def test_nothing_is_left_behind_for_who_calls_main_twice(run, index, tmp_path):
    handlers, level = list(logging.getLogger().handlers), logging.getLogger("ingest").level
    run("run", tmp_path / "d", "--index", index, "--dry-run", *JSON)
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("ingest").level == level

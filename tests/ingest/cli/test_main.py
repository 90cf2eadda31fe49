from __future__ import annotations

import json
import shlex
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click
import pandas as pd
import pytest

from ingest import __version__
from ingest.cli.main import cli
from ingest.cli.style import ByteSize
from ingest.errors import ConfigError
from ingest.gene_ids import gene_ids
from ingest.layout import RUNS
from ingest.store import open_store
from ingest.testing.h5ad_files import sample_counts, sample_obs, write_h5ad_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


ALL = dict(commands(cli))


@pytest.fixture
def index(tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> Path:
    counts = sample_counts(120, 40, density=0.2, seed=3)
    write_h5ad_variant(tmp_path / "a.h5ad", counts, obs=sample_obs(120, seed=3))
    path = tmp_path / "index.feather"
    code, _, err = run("index", "h5ad", tmp_path / "a.h5ad", "-o", path)
    assert code == 0, err
    return path


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_says_what_for_and_ends_with_two_examples(path: tuple[str, ...], run: Callable[..., tuple[int, str, str]]):
    code, out, err = run(*path, "--help")
    assert (code, err) == (0, "")
    usage, purpose = out.split("\n\n")[:2]
    assert usage.startswith("Usage: python -m ingest")
    assert purpose.strip()[0].isupper()
    examples = out.rstrip().split("Examples:\n")[1].splitlines()
    assert len(examples) == 2
    assert all(example.strip().startswith("python -m ingest") for example in examples)


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if not isinstance(command, click.Group)])
def test_examples_parse(path: tuple[str, ...]):
    for example in ALL[path].examples:
        words = shlex.split(example)[3:]
        assert tuple(words[: len(path)]) == path
        with click.Context(ALL[path]) as context:
            ALL[path].parse_args(context, words[len(path) :])


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom ingest.cli.main import main\ntry:\n main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('ray', 'tiledbsoma', 'pyarrow', 'pandas', 'anndata', 'numba', 'boto3', 'h5py')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version(run: Callable[..., tuple[int, str, str]]):
    assert run("--version")[1].split()[-1] == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rum", "x"], "no command 'rum'; did you mean 'run'?"),
        (["run"], "Missing argument 'DEST'"),
        (["run", "x", "--wokers", "2"], "No such option '--wokers'"),
        (["run", "x", "--memory", "12X"], "'12X' is no size"),
        (["run", "x", "-d", "0"], "-d 0: at least one worker is needed"),
        (["run", "x", "--gene-filter", " , "], "--gene-filter holds no gene id"),
        (["index", "h5ad"], "Missing argument 'PATH…'"),
        (["index", "census", "--by", "band"], "--cells N says how many"),
        (["status", "nowhere"], "holds no dataset"),
        (["run", "ftp://host/x", "--index", "i"], "ftp"),
        (["run", "s3://key:secret@bucket/x", "--index", "i"], "***@bucket"),
    ],
)
def test_bad_usage_is_one_line_and_code_2(
    arguments: list[str], said: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    first, *advice = err.splitlines()
    assert first.startswith("error: ")
    assert said in first
    assert len(advice) <= 1
    assert "secret" not in err
    assert not list(tmp_path.iterdir())


def test_empty_selections(index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path):
    code, _, err = run("run", tmp_path / "d", "--index", index, "-n", 0)
    assert code == 2
    assert "-n 0 takes none of its cells" in err
    assert not (tmp_path / "d").exists()


def test_json_is_all_that_stdout_gets(index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path):
    dest = tmp_path / "d"
    _, out, _ = run("run", dest, "--index", index, "-c", 50, "--pool", "serial", "--dry-run", "--json")
    assert json.loads(out)["missing_chunks"] == 3
    assert not dest.exists()
    code, out, _ = run("run", dest, "--index", index, "-c", 50, "--pool", "serial", "--json")
    assert code == 0
    assert json.loads(out)["complete"] is True
    for command in ("status", "verify", "gc", "repair"):
        code, out, err = run(command, dest, "--json")
        assert code == 0, err
        assert isinstance(json.loads(out), dict)
    code, out, _ = run("index", "show", index, "--json")
    assert json.loads(out)["cells"] == 120


def test_flags_beat_the_file_which_beats_the_environment(
    index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch
):
    config = tmp_path / "run.toml"
    config.write_text("cells-per-chunk = 30\nmax_cells = 100\n")
    monkeypatch.setenv("CELL_INGEST_CELLS_PER_CHUNK", "10")
    monkeypatch.setenv("CELL_INGEST_POOL", "serial")

    def chunks(*arguments: object) -> tuple[int, int]:
        code, out, err = run("run", tmp_path / "d", "--index", index, "--dry-run", "--json", *arguments)
        assert code == 0, err
        facts = json.loads(out)
        return facts["missing_chunks"], facts["cells_per_chunk"]

    assert chunks() == (12, 10)
    assert chunks("--config", config) == (4, 30)
    assert chunks("--config", config, "-c", 50) == (2, 50)
    config.write_text("cels-per-chunk = 30\n")
    code, _, err = run("run", tmp_path / "d", "--index", index, "--config", config)
    assert code == 2
    assert "no setting 'cels-per-chunk'; did you mean 'cells-per-chunk'?" in err


def test_settled_settings_are_refused_on_resume(index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path):
    dest = tmp_path / "d"
    assert run("run", dest, "--index", index, "-c", 50, "--pool", "serial")[0] == 0
    code, _, err = run("run", dest, "-c", 40, "--pool", "serial")
    assert code == 2
    assert "cells_per_chunk 50, not 40" in err
    code, _, err = run("run", dest, "--gene-filter", "a,b", "--pool", "serial")
    assert code == 2
    assert "--gene-filter shapes a new dataset" in err
    assert run("run", dest, "-c", 50, "--pool", "serial")[0] == 0


def test_who_goes_on_asks_the_store_for_its_preconditions_too(
    index: Path, run: Callable[..., tuple[int, str, str]], plain_gcs_server, monkeypatch: pytest.MonkeyPatch
):
    """The plan is there, though the run that put it was refused."""
    for name, value in plain_gcs_server.environment.items():
        monkeypatch.setenv(name, value)
    dest = f"{plain_gcs_server.create_bucket('gone-on')}/dest"
    again = ("run", dest, "--pool", "serial")
    assert run(*again, "--index", index, "-c", 60)[0] == 2
    code, _, err = run(*again)
    assert (code, "ignores preconditions" in err, "--single-driver" in err) == (2, True, True)
    assert run(*again, "--dry-run")[0] == 0
    with closing(open_store(dest)) as store:
        assert not [stat.key for stat in store.list("") if stat.key.startswith(("chunks/", RUNS))]
    assert run(*again, "--single-driver")[0] == 0
    assert run(*again)[0] == 0, "nothing is left to be made"


def test_an_index_made_by_hand_in_pandas_works(index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path):
    frame = pd.read_feather(index).sample(frac=0.5, random_state=1)
    frame["row"] = frame["row"].astype(float)
    frame["mine"] = ["x", "y"] * (len(frame) // 2)
    frame.to_feather(tmp_path / "mine.feather")
    code, _, err = run("run", tmp_path / "d", "--index", tmp_path / "mine.feather", "--pool", "serial")
    assert code == 0, err
    assert run("verify", tmp_path / "d", "--deep", "--source")[0] == 0


def test_a_chunk_that_cannot_fit_is_refused_before_anything_is_written(
    index: Path, run: Callable[..., tuple[int, str, str]], tmp_path: Path
):
    code, _, err = run("run", tmp_path / "d", "--index", index, "--memory", "100M")
    assert code == 2
    assert "MiB in a worker; --memory allows 100" in err
    assert "would do" in err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("1.5G", 3 << 29), ("800M", 800 << 20), ("2GiB", 2 << 30), ("7", 7), ("64k", 65536)]
)
def test_sizes(text: str, size: int):
    assert ByteSize().convert(text, None, None) == size


def test_gene_files(tmp_path: Path):
    path = tmp_path / "genes.txt"
    path.write_text("ENSG1\nENSG2, ENSG3\n\n")
    assert gene_ids(f"@{path}", option="--gene-filter") == ("ENSG1", "ENSG2", "ENSG3")
    with pytest.raises(ConfigError, match="cannot read"):
        gene_ids(f"@{tmp_path / 'none.txt'}", option="--gene-filter")


@pytest.mark.parametrize("name", ["run.json", "run.toml"])
def test_a_bad_value_names_the_file_that_says_it(run, tmp_path, name):
    path = tmp_path / name
    path.write_text('{"cells_per_chunk": "many"}' if name.endswith("json") else 'cells_per_chunk = "many"')
    code, out, err = run("run", tmp_path / "dest", "--config", path)
    assert (code, out) == (2, "")
    said = f"error: {path}: Invalid value for '-c' / '--cells-per-chunk': 'many' is not a valid integer."
    assert err.splitlines()[0] == said
    assert run("run", tmp_path / "dest", "--config", path, "-c", "few")[2].startswith("error: Invalid value for '-c'")


def test_a_bad_value_names_the_variable_that_says_it(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CELL_INGEST_LEVEL", "most")
    code, _, err = run("run", tmp_path / "dest")
    assert code == 2
    assert err.startswith("error: CELL_INGEST_LEVEL: Invalid value for '--level': 'most' is not a valid")

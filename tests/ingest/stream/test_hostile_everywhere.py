"""The hostile corpus through what the other files leave out: every operation's memory, and the command line."""

from __future__ import annotations

import os
import re
import resource
import warnings
from pathlib import Path

import pytest

from ingest.cli.main import main
from ingest.errors import IngestError
from ingest.testing.h5ad_bombs import bombs
from ingest.testing.h5ad_files import hostile_files
from ingest.testing.stream_operations import EDIT, MAKE, READ

BOMB_BYTES = 1 << 28
MOST_BYTES = 100 << 20
"""Of memory that an operation takes of a file of a few hundred kilobytes: blocks, caches, and what is imported."""

COMMANDS = {
    "csc": ("csc", "-o", "out.h5ad"),
    "csr": ("csr", "-o", "out.h5ad"),
    "normalize": ("normalize", "-o", "out.h5ad", "--json"),
    "subset": ("subset", "-o", "out.h5ad", "--where", "cell_type == 'B cell'", "--genes", "ENSG00000000003"),
    "sort": ("sort", "-o", "out.h5ad", "--column", "cell_type", "--control", "B cell"),
    "standardize": (
        "standardize", "--output-dir", "out", "--column", "cell_type", "--control", "B cell", "--genes", "feature_name",
    ),
    "labels": ("labels", "--column", "cell_type", "--strip-suffix", " cell", "--in-place"),
    "genes": ("genes", "--column", "feature_name", "--in-place"),
}  # fmt: skip
REFUSED = {
    "external-link",
    "external-storage",
    "virtual-dataset",
    "declared-size",
    "link-cycle",
    "not-hdf5",
    "truncated",
}
"""Rules that a file breaks for whoever opens it."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return hostile_files(tmp_path_factory.mktemp("hostile"), bomb_bytes=1 << 26)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning", "ignore:.*are not unique now")
@pytest.mark.sampled(3)
def test_the_command_line(command, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    word, *rest = COMMANDS[command]
    wrong = []
    for name, (path, rule) in corpus.items():
        Path("a.h5ad").write_bytes(path.read_bytes())
        with pytest.raises(SystemExit) as ended:
            main(["convert", word, "a.h5ad", *rest])
        said, made = capsys.readouterr(), [path for path in Path().rglob("*") if path.is_file()]
        if ended.value.code == 0:
            fine = rule not in REFUSED and not said.err.startswith("error")
        else:
            told = re.match(r"error: [^\n]+\n( {7}[^\n]+\n)?\Z", said.err[said.err.find("error: ") :])
            same = Path("a.h5ad").read_bytes() == path.read_bytes()
            fine = told and "unforeseen" not in said.err and not said.out and same and made == [Path("a.h5ad")]
            fine = fine and ended.value.code in (1, 2)
        if not fine:
            wrong.append((name, rule, ended.value.code, said.err, made))
        for path in made:
            path.unlink()
    assert wrong == []


def memory_of(call):
    """Return how many bytes more than now a process of its own takes for this at most, and how it ends."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        before = resident()
        ended = "fine"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call()
        except IngestError as error:
            ended = error.kind
        except BaseException as error:  # noqa: BLE001 # is what must not be
            ended = repr(error)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        os.write(writing, f"{most - before} {ended}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        said = told.read()
    assert os.waitpid(child, 0)[1] == 0
    taken, ended = said.split(" ", 1)
    return int(taken), ended


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def bombed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bombs")
    corpus = hostile_files(folder, bomb_bytes=BOMB_BYTES)
    return {name: corpus[name].path for name in bombs(BOMB_BYTES)}


CALLS = {
    **READ,
    **EDIT,
    **{name: lambda path, call=call: call(path, path.parent / "out") for name, call in MAKE.items()},
}


THIRDS = [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)]


@pytest.mark.parametrize("third", THIRDS)
def test_bombs_burst_in_nobodys_memory(bombed, tmp_path, third):
    """A quarter of a gigabyte in a file of some hundred kilobytes, of which no operation holds more than its blocks."""
    wrong = []
    for at, (name, path) in enumerate(bombed.items()):
        for operation, call in list(CALLS.items())[(at + third) % 3 :: 3]:
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "a.h5ad").write_bytes(path.read_bytes())
            taken, ended = memory_of(lambda call=call: call(tmp_path / "a.h5ad"))
            if taken > MOST_BYTES or "(" in ended:
                wrong.append((name, operation, f"{taken / 1e6:.0f} MB", ended))
            for made in [path for path in (tmp_path / "out").rglob("*") if path.is_file()]:
                made.unlink()
    assert wrong == []

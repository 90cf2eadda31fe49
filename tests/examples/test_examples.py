"""The examples as a person runs them: the loss falls, a stopped run goes on, a mistake is one line."""

from __future__ import annotations

import importlib.util
import io
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ingest.errors import ConfigError
from ingest.testing.training import make_training_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "vae.py": ["--steps", "60", "--n-hvgs", "60", "--hidden", "32", "--batch-size", "64", "--learning-rate", "3e-3"],
    "masked_transformer.py": [
        *("--steps", "60", "--n-hvgs", "24", "--width", "24", "--heads", "2", "--layers", "1", "--n-tokens", "8"),
        *("--learning-rate", "5e-3"),
    ],
}


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    return make_training_dataset(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """With more, torch's would wait for each other on cores that other tests have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(script: str, *arguments: object) -> Ended:
    """Run a script as the interpreter does, in this process: importing torch again costs more than training."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(EXAMPLES / script), *map(str, arguments)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except KeyboardInterrupt:
            code = 130
    return Ended(code, out.getvalue(), err.getvalue())


def run_until_third_checkpoint(script: str, *arguments: object) -> Ended:
    save, saved = torch.save, []

    def stop_at_third(*what: object) -> None:
        saved.append(1)
        if len(saved) == 3:
            raise KeyboardInterrupt
        save(*what)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", stop_at_third)
        return run(script, *arguments)


def losses(said: str) -> list[float]:
    return [float(number) for number in re.findall(r"^step .* loss +([0-9.]+) nats", said, re.MULTILINE)]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("vae.py", ["--likelihood", "zinb", "--split-by", "donor"]),
        pytest.param("masked_transformer.py", ["--tokenizer", "direct"], marks=pytest.mark.long),
        pytest.param(
            "masked_transformer.py", ["--tokenizer", "binned", "--split-by", "sample"], marks=pytest.mark.long
        ),
        ("masked_transformer.py", ["--tokenizer", "log", "--num-workers", "1"]),
    ],
)
def test_the_loss_falls(dataset, script, options):
    ended = run(script, dataset, *SMALL[script], *options)
    assert (ended.returncode, ended.stderr) == (0, "")
    check_losses(ended.stdout)


def check_losses(said: str) -> None:
    falling = losses(said)
    assert len(falling) == 3
    assert falling[0] > falling[2]
    held_out = float(re.search(r"held-out cells: loss ([0-9.]+)", said)[1])
    assert held_out < falling[0]
    for guessing in re.findall(r"guessing: loss ([0-9.]+)", said):
        assert held_out < 0.9 * float(guessing)


@pytest.mark.parametrize("script", list(SMALL))
def test_a_stopped_run_goes_on_as_if_it_had_not_been(dataset, script, tmp_path):
    options = [*SMALL[script], "--checkpoint"]
    whole = run(script, dataset, *options, tmp_path / "whole.pt")
    check_losses(whole.stdout)
    # Stopped after 40 steps, in the middle of an epoch; the VAE's warm-up goes by --steps, so that must be the same.
    stopped = run_until_third_checkpoint(script, dataset, *options, tmp_path / "cut.pt")
    assert "step    40" in stopped.stdout
    assert stopped.returncode != 0
    resumed = run(script, dataset, *options, tmp_path / "cut.pt")
    assert "going on from" in resumed.stdout
    assert "40 steps are done" in resumed.stdout
    assert losses(resumed.stdout) == losses(whole.stdout)[2:]
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


def test_another_choice_of_cells_does_not_go_on_from_a_checkpoint(dataset, tmp_path):
    module = load("vae.py")
    options = [dataset, *SMALL["vae.py"], "--steps", "20", "--checkpoint", str(tmp_path / "a.pt")]
    module.train(module.arguments().parse_args(options))
    with pytest.raises(ConfigError, match="the state is of another order of cells"):
        module.train(module.arguments().parse_args([*options, "--split-by", "donor"]))


@pytest.mark.parametrize("script", list(SMALL))
def test_mistakes_are_named_and_help_ends_with_an_example(dataset, script, tmp_path):
    module = load(script)
    for options, said in (
        (["--n-hvgs", "5000"], "has 120 highly variable genes, not 5,000"),
        (["--split-by", "donr_id"], "did you mean 'donor_id'"),
    ):
        with pytest.raises(ConfigError, match=said):
            module.train(module.arguments().parse_args([dataset, *options]))
    assert "example: python -m ingest hvg demo/dataset &&" in module.arguments().format_help()
    command = [sys.executable, EXAMPLES / script, tmp_path / "nothing"]
    nothing = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert nothing.stderr.startswith("error: ")
    assert "Traceback" not in nothing.stderr


def load(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.removesuffix(".py"), EXAMPLES / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""``demo``: the whole way on a Census or a scBaseCount built here; no network, no account."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.cli.progress import CountDisplay, note, notice
from ingest.cli.style import Command
from ingest.errors import ConfigError

if TYPE_CHECKING:
    from ingest.opened import OpenPlan
    from ingest.settings import WorkSettings
    from ingest.testing.census import BuiltCensus
    from ingest.testing.scbasecount import BuiltScBaseCount

__all__ = ["demo"]

_FILTER = "disease == 'normal'"
_CELLS_PER_CHUNK = 2_000
_SAMPLES = 12


@click.command(
    cls=Command,
    examples=("python -m ingest demo", "python -m ingest demo /tmp/try --source scbasecount --cells 50000 -d 1"),
)
@click.argument("dest", default="demo", metavar="[DEST]")
@click.option("--source", type=click.Choice(["census", "scbasecount"]), default="census", show_default=True)
@click.option("--cells", type=click.IntRange(2_000), default=30_000, show_default=True, help="Cells of the source.")
@click.option("--genes", type=click.IntRange(5_000), default=20_000, show_default=True, help="Genes of the source.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-c", "--cells-per-chunk", type=int, default=_CELLS_PER_CHUNK, show_default=True, metavar="N")
@click.option("-d", "--workers", type=int, metavar="N", help="Workers; all CPUs unless said.")
@click.option("--pool", type=click.Choice(["ray", "serial"]), default="ray", show_default=True)
def demo(**options: Any) -> int:
    """Go the whole way on a Census or a scBaseCount built here: index, run on a local Ray, verify.

    The source is made of counts drawn from a seeded model, and is kept in a cache folder for the next time. DEST
    (default: demo) gets the index and the dataset.
    """
    dest = _folder(options["dest"])
    index = dest / "index.feather"
    if options["source"] == "census":
        from ingest.cpu import require_avx2

        require_avx2()
        _index(_census(options), index)
    else:
        _index_samples(_scbasecount(options), index, options)
    opened, code = _run(dest / "dataset", index, options)
    if code:
        return code
    code = _verify(opened)
    _next_steps(dest, options["source"])
    return code


def _folder(text: str) -> Path:
    if "://" in text:
        raise ConfigError(
            f"{text}: the demo goes to a folder",
            kind="bad-url",
            hint="`run` takes s3:// and gs://; the demo's index and Census will do for a try",
        )
    dest = Path(text)
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{dest}: cannot make this folder ({error.strerror})", kind="bad-path") from error
    return dest


def _census(options: dict[str, Any]) -> BuiltCensus:
    from platformdirs import user_cache_path

    from ingest.testing.census import CensusSpec, cached_census

    mean = min(2_440, options["genes"] * 7 // 80)
    spec = CensusSpec(n_cells=options["cells"], n_genes=options["genes"], mean_nnz_per_cell=mean, seed=options["seed"])
    cache = user_cache_path("cell-ingest") / "census"
    start = time.perf_counter()
    built_here = False

    with CountDisplay("Census", spec.n_cells, "cells built, once") as display:

        def progress(done: int, _total: int) -> None:
            nonlocal built_here
            if not built_here:
                note(f"building a Census of {spec.n_cells:,} cells x {spec.n_genes:,} genes, once")
            built_here = True
            display.reached(done)

        built = cached_census(cache, spec, progress=progress)
    how = f"built in {time.perf_counter() - start:.1f} s" if built_here else "built earlier"
    notice(
        "Census", f"{spec.n_cells:,} cells, {spec.n_genes:,} genes, {spec.n_datasets} datasets; {how}    {built.path}"
    )
    return built


def _index(census: BuiltCensus, path: Path) -> None:
    from index.build import CensusOptions, index_census
    from ingest.cli.index import report_index

    report_index(index_census(CensusOptions(output=path, uri=census.uri, value_filter=_FILTER)))
    note(f"{'':8} value filter: {_FILTER}")


def _scbasecount(options: dict[str, Any]) -> BuiltScBaseCount:
    from platformdirs import user_cache_path

    from ingest.testing.scbasecount import ScBaseCountSpec, cached_scbasecount

    spec = ScBaseCountSpec(
        n_samples=_SAMPLES,
        mean_cells=options["cells"] // _SAMPLES,
        n_genes=options["genes"],
        mean_molecules=options["genes"] // 5,
        releases=("2026-01-12",),
        features=("GeneFull_Ex50pAS",),
        organisms=("Homo_sapiens",),
        row_group=5_000,
        seed=options["seed"],
    )
    start = time.perf_counter()
    note(f"looking for a scBaseCount of {spec.n_samples} samples x {spec.n_genes:,} genes, or building it")
    built = cached_scbasecount(user_cache_path("cell-ingest") / "scbasecount", spec)
    notice(
        "Samples",
        f"{spec.n_samples} h5ad files, {spec.n_genes:,} genes; {time.perf_counter() - start:.1f} s    {built.path}",
    )
    return built


def _index_samples(built: BuiltScBaseCount, path: Path, options: dict[str, Any]) -> None:
    from index.build import ScBaseCountOptions, index_scbasecount
    from index.draw import SampleDraw
    from ingest.cli.index import report_index

    draw = SampleDraw(options["cells"] // 2, options["seed"])
    report_index(index_scbasecount(ScBaseCountOptions(output=path, root=str(built.path), sampling=draw)))


def _settings(options: dict[str, Any]) -> WorkSettings:
    from ingest.settings import WorkSettings

    # As `run` has it: a cluster's nodes are not this machine, whose share a worker would otherwise ask for.
    on_cluster = options["pool"] == "ray" and "RAY_ADDRESS" in os.environ
    return WorkSettings(workers=options["workers"], cpus=1 if on_cluster else None, pool=options["pool"])


def _run(dest: Path, index: Path, options: dict[str, Any]) -> tuple[OpenPlan, int]:
    from ingest.cells import read_cells
    from ingest.cli.execute import describe_work, execute, plan_facts, say_end, speed_line
    from ingest.committing import commit_plan
    from ingest.errors import ForeignPlanError
    from ingest.preparing import divide_work, draft_dataset
    from ingest.settings import DataSettings
    from ingest.store.open import open_store
    from ingest.survey.run import default_cache

    work = _settings(options)
    store = open_store(str(dest))
    data = DataSettings(cells_per_chunk=options["cells_per_chunk"])
    draft = draft_dataset(read_cells(index), data, work, cache=default_cache())
    try:
        opened = commit_plan(store, draft)
    except ForeignPlanError as error:
        raise ForeignPlanError(error.message, hint=f"demo another folder, or remove {dest}") from error
    divided = divide_work(draft.profile, opened, opened.ledger.done(), work)
    if divided.missing:
        describe_work(plan_facts(opened, divided, work))
    opened, report = execute(opened, divided, work)
    facts = say_end(opened, report)
    if report.finished is not None:
        click.echo(speed_line(facts))
    return opened, report.exit_code


def _verify(opened: OpenPlan) -> int:
    from ingest.cli.after import report_verification, run_verification

    return report_verification(opened, run_verification(opened, deep=True, source=False))


def _next_steps(dest: Path, source: str) -> None:
    # The interpreter that runs this has the packages; whether plain `python` does, nobody knows.
    python = Path(sys.executable)
    with contextlib.suppress(ValueError):
        python = python.relative_to(Path.cwd())
    click.echo(f"  {dest}/dataset")
    click.echo(
        f"""
Next     {python} -m ingest index show {dest}/index.feather
         {python} -m ingest status {dest}/dataset
         {python} -m ingest hvg {dest}/dataset
         {python} -c "import anndata; print(anndata.read_h5ad('{dest}/dataset/chunks/chunk_000000.h5ad'))"
         {python} -m ingest index {source} --value-filter "tissue == 'lung'" -o lung.feather   (needs a network)
         {python} -m ingest run s3://BUCKET/lung --index lung.feather -c 25000"""
    )

"""Kernels compiled ahead: a process that comes after compiles nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Everything is compiled from nothing, twice: a minute of both cores. `.ci/run` does it beside `make test`.
pytestmark = pytest.mark.long

WORK = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from numba.core.registry import CPUDispatcher
from ingest.encode.base import encode_block
from ingest.encode.open import open_codec
from ingest.fetch.assemble import CooAssembler, GeneMap, csr_rows
from ingest.load.dataset import open_chunks
from ingest.load.memmap.archive import ArchiveSpec, ArrayFiles
from ingest.load.memmap.convert.base import Place
from ingest.load.memmap.cells import MappedCells
from ingest.load.memmap.convert.h5ad import H5adRows
from ingest.load.memmap.from_h5ad import H5adOptions, archive_of_h5ad
from ingest.load.read.kernels import scatter_rows
from ingest.load.transform import BinnedTokens, Compose, DirectTokens, LogTokens, Normalize, NormalizeLog1p, RankOrder
from ingest.settings import DataSettings
from ingest.stream import convert_to_csc, convert_to_csr, normalize_total_log1p, write_filtered_subset
from ingest.stream.matrix.rewrite import rewrite
from ingest.testing.blocks import seeded_block
from ingest.testing.datasets import make_dataset, write_h5ad_index, write_sources
from ingest.testing.h5ad_files import sample_counts, write_h5ad_variant
from ingest.testing.windows import fresh
from ingest.validate import check_rows

block = seeded_block(90, 1_500, density=0.4)
counts = block.counts
rows = np.arange(90) * 7 + 3
genes = GeneMap(np.arange(1_500, dtype=np.int32)[::-1].copy(), 1_500, 1_500)
assembler = CooAssembler(rows[::-1], genes, dtype=np.float32, source="t")
table = np.repeat(rows, np.diff(counts.indptr)), counts.indices.astype(np.int64), counts.data
for cut in (slice(None, 5_000), slice(5_000, None)):
    assembler.add(*(pa.array(column[cut]).to_numpy() for column in table))
found = assembler.finish().counts
taken = csr_rows(counts.indptr, counts.indices, counts.data, np.arange(90)[::-1].copy(), genes, source="t").counts
assert (found.data == taken.data).all() and (found.indices == taken.indices).all()
check_rows(found.rows(3, 50), source="t")
encode_block(open_codec("h5ad", "deflate", 1), block)
whole = seeded_block(90, 1_500, density=0.05, dtype=np.int32)
encoder = open_codec("h5", "deflate", 1).begin(whole.genes, "int16")
check_rows(whole.counts.rows(3, 50), source="t")
encoder.add(whole.counts)
encoder.finish(whole.obs, whole.obs_names)
transforms = Normalize(), DirectTokens(9), LogTokens(9), BinnedTokens(9), RankOrder(9, np.ones(1_500))
for transform in (*transforms, Compose([NormalizeLog1p(), BinnedTokens(9)]), Compose([NormalizeLog1p(), RankOrder(9)])):
    transform(fresh(block.counts))

files = write_sources(Path(sys.argv[1]), n_files=1, n_cells=90, n_genes=300)
index = write_h5ad_index(Path(sys.argv[1]) / "index.feather", files)
for form, dtype, order in (("h5ad", "float32", "none"), ("h5", "int16", "none"), ("h5ad", "float32", "window")):
    data = DataSettings(cells_per_chunk=40, format=form, dtype=dtype, shuffle=order)
    cells = open_chunks(make_dataset(f"{sys.argv[1]}/{form}-{order}", index, data=data).url)
    cells.counts([70, 3, 50])

for file in ("csr-None", "csr-gzip", "csr-lzf", "csc-gzip", "dense-gzip"):
    layout, compression = file.split("-")
    path = Path(sys.argv[1]) / f"{file}.h5ad"
    write_h5ad_variant(path, sample_counts(90, 300), layout=layout, compression=compression.replace("None", "") or None)
    for number, at in enumerate((path, min(Path(sys.argv[1]).glob("h5ad-none/chunks/*")))):
        source, folder = H5adRows(at, use_X_not_raw=True), path.with_suffix(f".{number}")
        folder.mkdir()
        for dtype in ("float32", "uint16"):
            with ArrayFiles.create(folder, ArchiveSpec.smallest(source.n_rows, source.n_entries, 300, dtype)) as into:
                source.write(Place(0, source.n_rows, 0, 0), into)
    out, cells, genes = path.with_suffix(".out"), np.arange(90) % 3 > 0, np.arange(300) % 2 > 0
    for to, convert in (("csc", convert_to_csc), ("csr", convert_to_csr)):
        if to != layout:
            convert(path, output_path=out, verbose=False)
    for log1p in (True, False):
        normalize_total_log1p(path, out, log1p=log1p, verbose=False)
    write_filtered_subset(path, cell_mask=cells, gene_mask=genes, output_path=out)
    rewrite(path, out, rows=np.arange(90)[::-1].copy())
for dtype in ("float32", "uint16"):
    archive = path.with_suffix(f".{dtype}")
    archive_of_h5ad(archive, path, H5adOptions(data_dtype=dtype, use_x=True))
    mapped = MappedCells(archive)
    for genes in (None, [7, 3, 250]):
        mapped.read(np.array([70, 3, 50]), mapped.gene_columns(genes)[1])
some = open_chunks(f"{sys.argv[1]}/h5ad-none").counts([70, 3, 50], genes=[7, 3, 250])
scatter_rows(some.indptr, some.indices, some.data, np.zeros((3, 3), np.float32))

kernels = {
    id(kernel): kernel
    for name, module in list(sys.modules.items())
    if name.startswith("ingest.")
    for kernel in vars(module).values()
    if isinstance(kernel, CPUDispatcher)
}.values()
hits = sum(sum(kernel.stats.cache_hits.values()) for kernel in kernels)
missed = [(kernel.__name__, *kernel.stats.cache_misses) for kernel in kernels if kernel.stats.cache_misses]
print(hits)
sys.exit(f"compiled anew: {missed}" if missed else 0)
"""


def run(folder, *arguments):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_after_compiling_ahead_a_process_loads_everything(tmp_path):
    ahead = run(tmp_path, "-m", "ingest.warm")
    assert (ahead.returncode, ahead.stderr) == (0, "")
    after = run(tmp_path, "-c", WORK, tmp_path / "data")
    assert after.returncode == 0, after.stderr
    assert int(after.stdout) >= 8


def test_without_it_kernels_are_compiled(tmp_path):
    """The test above tells: a kernel that was not met is missed."""
    met = WORK[: WORK.index("rows = ")] + 'check_rows(counts, source="t")\n' + WORK[WORK.index("kernels = ") :]
    after = run(tmp_path, "-c", met)
    assert after.returncode == 1
    assert "compiled anew: [('_check_rows'" in after.stderr or "('_indptr_fault'" in after.stderr

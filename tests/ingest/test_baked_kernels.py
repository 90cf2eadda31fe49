"""What an image compiled is found by processes that cannot write there, and what it lacks is compiled beside it."""

from __future__ import annotations

import importlib.util

import numba.core.config
import numpy as np
import pytest

from ingest.baked_kernels import BakedKernels

SOURCE = "import numba\n\n\n@numba.njit(cache=True)\ndef twice(x):\n    return x + x\n"


@pytest.fixture
def process(tmp_path, monkeypatch):
    """Return how to be a process with `folder` as its cache, and what the image brought: its kernel, newly imported."""
    path = tmp_path / "kernels.py"
    path.write_text(SOURCE)
    monkeypatch.setattr(numba.core.config, "CACHE_LOCATOR_CLASSES", "ingest.baked_kernels.BakedKernels")

    def start(folder, baked=None):
        monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(folder))
        if baked is None:
            monkeypatch.delenv("CELL_INGEST_KERNELS", raising=False)
        else:
            monkeypatch.setenv("CELL_INGEST_KERNELS", str(baked))
        spec = importlib.util.spec_from_file_location("kernels", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.twice

    return start


def files(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_baked_is_loaded_and_what_was_not_is_kept_beside_it(tmp_path, process):
    baked, here = tmp_path / "image", tmp_path / "tmp"
    assert process(baked)(2) == 4
    brought = files(baked)
    assert len(brought) == 2
    twice = process(here, baked)
    assert twice(3) == 6
    assert (sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values())) == (1, 0)
    assert all(path.is_symlink() for path in here.rglob("*.nb?"))
    assert twice(np.float32(1.5)) == 3
    assert sum(twice.stats.cache_misses.values()) == 1
    later = process(here, baked)
    assert (later(3), later(np.float32(1.5))) == (6, 3)
    assert sum(later.stats.cache_hits.values()) == 2
    assert files(baked) == brought


def test_without_an_image_it_is_numba_s_own_cache(tmp_path, process):
    assert process(tmp_path / "tmp")(2) == 4
    assert len(files(tmp_path / "tmp")) == 2
    again = process(tmp_path / "tmp", tmp_path / "nothing")
    assert again(2) == 4
    assert sum(again.stats.cache_hits.values()) == 1


def test_a_process_that_comes_second_finds_the_links_of_the_first(tmp_path, process):
    baked, here = tmp_path / "image", tmp_path / "tmp"
    process(baked)(2)
    process(here, baked)
    locator = BakedKernels.from_function(process(here, baked).py_func, str(tmp_path / "kernels.py"))
    locator.ensure_cache_path()
    assert files(here) == files(baked)

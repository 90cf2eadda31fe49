"""bionemo-scdl's conversions, as its README has them; runs in its environment."""

from __future__ import annotations

import sys

from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

__all__ = ["convert"]


def convert(how: str, source: str, archive: str) -> None:
    """Convert one file by its constructor or, of a size that it would read piecewise, by that; a folder by its script.

    Parameters
    ----------
    how
        ``whole``, ``pieces`` or ``script``; with `` X`` behind it, ``X`` is taken and not ``raw.X``.
    """
    how, _, taken = how.partition(" ")
    if how == "script":
        _run_script(source, archive, taken)
        return
    pieces = {"paginated_load_cutoff": 0, "load_block_row_size": 5_000} if how == "pieces" else {}
    SingleCellMemMapDataset(archive, source, use_X_not_raw=taken == "X", **pieces)


def _run_script(source: str, archive: str, taken: str) -> None:
    from bionemo.scdl.scripts.convert_h5ad_to_scdl import main

    flags = ["--use-X-not-raw"] if taken == "X" else []
    sys.argv = ["convert_h5ad_to_scdl", "--data-path", source, "--save-path", archive, *flags]
    main()

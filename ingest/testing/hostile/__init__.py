"""A corpus of hostile and broken files of every kind that is opened, each made by a small function with a name.

::

    good = write_good_h5ad(folder / "good.h5ad")
    for case in h5ad_cases(): case.make(good, folder / f"{case.name}.h5ad")

What must come of each: a typed error, or the answer that the file's own bytes give; no other file is opened, no process
ends, memory stays bounded. `ingest.testing.entry_points` has everything that opens them.
"""

"""X of a Census straight from its stored tiles.

TileDB decompresses a tile, copies it into its buffers, copies what was asked for into Arrow's, and what assembles rows
copies once more: 20 bytes an entry each time, through memory. Here one tile is decompressed into the CPU's cache and
its runs of one row each are placed where they belong in the matrix: what is left is the decompression itself.

The way of the data: `folder` (bytes) -> `format`, `schema`, `fragment` (where each tile lies and which cells it holds)
-> `picking` (pure: which tiles and which byte ranges rows need) -> `loading` (bytes of tiles) -> `decoding`
(coordinates and values) -> `placing` (rows); `reader` is what others use. The format is TileDB's own, versions 16 to 22
(https://github.com/TileDB-Inc/TileDB, ``format_spec``). It reads the one layout that a Census has, completely; what it
does not know (`Unfamiliar`), TileDB reads.
"""

"""Which cells: catalogues are queried into one feather table, one row a cell."""

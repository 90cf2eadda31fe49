"""Blocks of rows or columns of any matrix of a file, and the files that are written of them."""

"""The cells: from byte ranges of chunk files to the rows of a window."""

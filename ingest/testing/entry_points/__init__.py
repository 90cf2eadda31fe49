"""Everything that opens a file which somebody else may have made, by the kind of file: for corpora and fuzzers."""

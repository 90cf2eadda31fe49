"""Train from a local disk larger than memory: bionemo-scdl's interface and archive, fed by chunks as well as h5ad."""

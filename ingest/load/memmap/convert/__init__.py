"""From h5ad files and chunks to an archive: who reads what, and where it goes."""

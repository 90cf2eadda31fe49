"""Read rows of a source into CSR counts over the dataset's genes."""

"""What PyTorch trains from. Importing this package imports torch; importing `ingest.load` does not."""

"""Catalogues: what lists sources and their cells. Each yields Arrow record batches of index rows."""

"""Training from chunks: cells in any order, as tensors."""

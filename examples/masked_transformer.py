"""A transformer that fills in masked expression tokens, trained straight from chunks: discrete diffusion.

A cell is one token for each of its highly variable genes. Of every cell a share t of the tokens, drawn anew from (0, 1)
each time, is masked, and the model says what they were. Cross-entropy over the masked ones, divided by t, bounds the
cell's likelihood from above (Sahoo et al., NeurIPS 2024: absorbing states, linear schedule); so the loss is in nats a
gene, and guessing has ln(n_tokens).

    python -m ingest demo demo && python -m ingest hvg demo/dataset
    python examples/masked_transformer.py demo/dataset
    python examples/masked_transformer.py s3://bucket/lung --tokenizer log --steps 20000 --checkpoint masked.pt

With --checkpoint, a run that was stopped goes on with the next cell it had not seen.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ingest.errors import IngestError
from ingest.load import CellLoader, ChunkedCells, create_hvg_dataloader, open_chunks
from ingest.load.split import Split, SplitRule, split
from ingest.load.transform import BinnedTokens, DirectTokens, LogTokens

TOKENIZERS = {"direct": DirectTokens, "binned": BinnedTokens, "log": LogTokens}


class Denoiser(nn.Module):
    """Tokens ``(n_cells, n_genes)``, some of them masked -> logits ``(n_cells, n_genes, n_tokens)``."""

    def __init__(self, n_genes: int, n_tokens: int, *, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.mask = n_tokens
        self.tokens = nn.Embedding(n_tokens + 1, width)
        self.genes = nn.Parameter(torch.randn(n_genes, width) * 0.1)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits of what each token was."""
        logits: Tensor = self.head(self.encoder(self.tokens(tokens) + self.genes))
        return logits

    def loss(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the bound on the negative log-likelihood, in nats a gene."""
        n_cells, n_genes = tokens.shape
        # One share from each of n_cells equal intervals: their mean varies less than that of independent ones.
        share = (torch.arange(n_cells) + torch.rand(n_cells, generator=generator)) / n_cells
        share = share.clamp(min=1 / n_genes)[:, None]
        masked = torch.rand(tokens.shape, generator=generator) < share
        logits = self(torch.where(masked, self.mask, tokens))
        surprise = functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
        return (surprise * masked / share).mean()


def arguments() -> argparse.ArgumentParser:
    """Return what can be asked for; `--help` prints it."""
    parser = argparse.ArgumentParser(
        description="Train a masked-token transformer from chunks.",
        epilog="example: python -m ingest hvg demo/dataset && "
        "python examples/masked_transformer.py demo/dataset --tokenizer log",
    )
    parser.add_argument("data", nargs="+", help="what `python -m ingest run` has written: a folder, s3:// or gs://")
    parser.add_argument(
        "--tokenizer", choices=list(TOKENIZERS), default="binned", help="how counts become tokens (%(default)s)"
    )
    parser.add_argument("--n-tokens", type=int, default=16, help="size of the vocabulary (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="batches in all (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="cells a batch (%(default)s)")
    parser.add_argument("--n-hvgs", type=int, default=200, help="highly variable genes (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of embeddings (%(default)s)")
    parser.add_argument("--heads", type=int, default=4, help="of attention (%(default)s)")
    parser.add_argument("--layers", type=int, default=2, help="of the transformer (%(default)s)")
    parser.add_argument("--split-by", default="cell", help="cell, donor, sample or an obs column (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="%(default)s")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read; 0: threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, masks, order and split (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="go on from this file if it is there, and keep it up to date")
    return parser


def train(options: argparse.Namespace) -> None:
    """Train, print how the loss falls, and hold the model against cells it has not seen."""
    torch.manual_seed(options.seed)
    cells = open_chunks(options.data)
    parts = split(cells, SplitRule(options.split_by, val=0.1, test=0, seed=options.seed))
    loader = loader_of(cells, parts, "train", options)
    model = Denoiser(
        len(loader.genes), options.n_tokens, width=options.width, heads=options.heads, layers=options.layers
    )
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    step = restore(options.checkpoint, model, optimizer, loader)
    print(f"{cells!r}: {len(loader.genes):,} genes, {len(loader):,} batches an epoch")
    print(f"guessing: loss {math.log(options.n_tokens):.4f} nats a gene")
    began, losses = time.monotonic(), []
    while step < options.steps:
        for tokens, _metadata in loader:
            loss = model.loss(tokens)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            losses.append(loss.item())
            if step % 20 == 0 or step == options.steps:
                speed = len(losses) * options.batch_size / (time.monotonic() - began)
                recent = sum(losses[-20:]) / len(losses[-20:])
                print(f"step {step:5}  epoch {loader.epoch}  loss {recent:.4f} nats a gene  {speed:,.0f} cells/s")
                save(options.checkpoint, model, optimizer, loader, step)
            if step == options.steps:
                break
    print(f"held-out cells: loss {evaluate(model, loader_of(cells, parts, 'val', options)):.4f} nats a gene")


def loader_of(cells: ChunkedCells, parts: Split, part: Any, options: argparse.Namespace) -> CellLoader:
    """Return a loader of one part of the cells: tokens, int64 ``(n_cells, n_genes)``."""
    return create_hvg_dataloader(
        cells,
        options.batch_size,
        n_hvgs=options.n_hvgs,
        transform=TOKENIZERS[options.tokenizer](options.n_tokens),
        rows=parts.rows(part),
        shuffle=part == "train",
        seed=options.seed,
        num_workers=options.num_workers if part == "train" else 0,
    )


@torch.no_grad()
def evaluate(model: Denoiser, loader: CellLoader) -> float:
    """Return the mean loss over the cells of `loader`, with masks that are the same every time."""
    generator = torch.Generator().manual_seed(0)
    total = n_cells = 0.0
    for tokens, _metadata in loader:
        total += float(model.loss(tokens, generator)) * len(tokens)
        n_cells += len(tokens)
    return total / n_cells


def save(path: Path | None, model: nn.Module, optimizer: Any, loader: CellLoader, step: int) -> None:
    """Write all that training goes on from, at once or not at all."""
    if path is None:
        return
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
    torch.save({**state, "step": step, "random": torch.get_rng_state()}, partial)
    partial.replace(path)


def restore(path: Path | None, model: nn.Module, optimizer: Any, loader: CellLoader) -> int:
    """Go on from `path` if there is such a file; return how many steps were done."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    loader.load_state_dict(state["loader"])
    torch.set_rng_state(state["random"])
    print(f"going on from {path}: {state['step']} steps are done")
    return int(state["step"])


if __name__ == "__main__":
    try:
        train(arguments().parse_args())
    except IngestError as error:
        sys.exit(f"error: {error}" + (f"\n       {error.hint}" if error.hint else ""))

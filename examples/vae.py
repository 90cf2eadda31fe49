"""A variational autoencoder of counts, trained straight from chunks.

A cell's counts of its highly variable genes go through an encoder to a few latent numbers and back to the mean of a
negative binomial, with zero inflation on request (Lopez et al., Nat Methods 2018, without batch correction).

    python -m ingest demo demo && python -m ingest hvg demo/dataset
    python examples/vae.py demo/dataset
    python examples/vae.py s3://bucket/lung --likelihood zinb --steps 5000 --checkpoint vae.pt

With --checkpoint, a run that was stopped goes on with the next cell it had not seen.
"""

from __future__ import annotations

import argparse
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


class CountVae(nn.Module):
    """Counts ``(n_cells, n_genes)`` -> latent ``(n_cells, n_latent)`` -> the parameters of their distribution."""

    def __init__(self, n_genes: int, *, n_hidden: int, n_latent: int, zero_inflated: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(n_genes, n_hidden), nn.LayerNorm(n_hidden), nn.ReLU())
        self.to_latent = nn.Linear(n_hidden, 2 * n_latent)
        self.decoder = nn.Sequential(nn.Linear(n_latent, n_hidden), nn.LayerNorm(n_hidden), nn.ReLU())
        self.to_share = nn.Linear(n_hidden, n_genes)
        self.to_dropout = nn.Linear(n_hidden, n_genes) if zero_inflated else None
        self.log_dispersion = nn.Parameter(torch.zeros(n_genes))

    def encode(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of the latent numbers, both ``(n_cells, n_latent)``."""
        mean, log_variance = self.to_latent(self.encoder(torch.log1p(counts))).chunk(2, dim=-1)
        return mean, log_variance

    def loss(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return reconstruction error and Kullback-Leibler divergence, both in nats a cell."""
        mean, log_variance = self.encode(counts)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        hidden = self.decoder(latent)
        expected = functional.softmax(self.to_share(hidden), dim=-1) * counts.sum(dim=-1, keepdim=True)
        log_likelihood = negative_binomial(counts, expected, self.log_dispersion)
        if self.to_dropout is not None:
            log_likelihood = zero_inflated(counts, log_likelihood, self.to_dropout(hidden))
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=-1)
        return -log_likelihood.sum(dim=-1).mean(), divergence.mean()


def negative_binomial(counts: Tensor, expected: Tensor, log_dispersion: Tensor) -> Tensor:
    """Return log-probabilities of `counts` with that mean and variance ``mean + mean**2 / dispersion``."""
    dispersion = log_dispersion.exp()
    log_total = torch.log(dispersion + expected + 1e-8)
    return (
        torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
        + dispersion * (log_dispersion - log_total)
        + counts * (torch.log(expected + 1e-8) - log_total)
    )


def zero_inflated(counts: Tensor, log_likelihood: Tensor, dropout_logits: Tensor) -> Tensor:
    """Return log-probabilities when each count is lost with a probability of its own, given by its logit."""
    lost, kept = functional.logsigmoid(dropout_logits), functional.logsigmoid(-dropout_logits)
    return torch.where(counts == 0, torch.logaddexp(lost, kept + log_likelihood), kept + log_likelihood)


def arguments() -> argparse.ArgumentParser:
    """Return what can be asked for; `--help` prints it."""
    parser = argparse.ArgumentParser(
        description="Train a variational autoencoder of counts from chunks.",
        epilog="example: python -m ingest hvg demo/dataset && python examples/vae.py demo/dataset --steps 300",
    )
    parser.add_argument("data", nargs="+", help="what `python -m ingest run` has written: a folder, s3:// or gs://")
    parser.add_argument(
        "--likelihood", choices=["nb", "zinb"], default="nb", help="distribution of counts (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=300, help="batches in all (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="cells a batch (%(default)s)")
    parser.add_argument("--n-hvgs", type=int, default=500, help="highly variable genes (%(default)s)")
    parser.add_argument("--hidden", type=int, default=128, help="width of hidden layers (%(default)s)")
    parser.add_argument("--latent", type=int, default=10, help="latent numbers a cell (%(default)s)")
    parser.add_argument("--split-by", default="cell", help="cell, donor, sample or an obs column (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="%(default)s")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read; 0: threads (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise, order and split (%(default)s)")
    parser.add_argument("--checkpoint", type=Path, help="go on from this file if it is there, and keep it up to date")
    return parser


def train(options: argparse.Namespace) -> None:
    """Train, print how the loss falls, and hold the model against cells it has not seen."""
    torch.manual_seed(options.seed)
    cells = open_chunks(options.data)
    parts = split(cells, SplitRule(options.split_by, val=0.1, test=0, seed=options.seed))
    loader = loader_of(cells, parts, "train", options)
    model = CountVae(
        len(loader.genes),
        n_hidden=options.hidden,
        n_latent=options.latent,
        zero_inflated=options.likelihood == "zinb",
    )
    optimizer = torch.optim.Adam(model.parameters(), options.learning_rate)
    step = restore(options.checkpoint, model, optimizer, loader)
    print(f"{cells!r}: {len(loader.genes):,} genes, {len(loader):,} batches an epoch")
    began, losses = time.monotonic(), []
    while step < options.steps:
        for counts, _metadata in loader:
            reconstruction, divergence = model.loss(counts)
            warmth = min(1.0, (step + 1) / (options.steps / 3))  # without it the latent numbers are given up at first
            optimizer.zero_grad()
            (reconstruction + warmth * divergence).backward()
            optimizer.step()
            step += 1
            losses.append((reconstruction + divergence).item())
            if step % 20 == 0 or step == options.steps:
                speed = len(losses) * options.batch_size / (time.monotonic() - began)
                recent = sum(losses[-20:]) / len(losses[-20:])
                print(f"step {step:5}  epoch {loader.epoch}  loss {recent:8.2f} nats a cell  {speed:,.0f} cells/s")
                save(options.checkpoint, model, optimizer, loader, step)
            if step == options.steps:
                break
    print(f"held-out cells: loss {evaluate(model, loader_of(cells, parts, 'val', options)):.2f} nats a cell")


def loader_of(cells: ChunkedCells, parts: Split, part: Any, options: argparse.Namespace) -> CellLoader:
    """Return a loader of one part of the cells."""
    return create_hvg_dataloader(
        cells,
        options.batch_size,
        n_hvgs=options.n_hvgs,
        rows=parts.rows(part),
        shuffle=part == "train",
        seed=options.seed,
        num_workers=options.num_workers if part == "train" else 0,
    )


@torch.no_grad()
def evaluate(model: CountVae, loader: CellLoader) -> float:
    """Return the mean loss over all cells of `loader`."""
    total = n_cells = 0.0
    for counts, _metadata in loader:
        total += float(sum(model.loss(counts))) * len(counts)
        n_cells += len(counts)
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

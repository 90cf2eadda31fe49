"""What is done to cells on their way into a batch: `Counts` in, `Counts` out, compiled, each cell by itself.

::

    Normalize  Log1p  NormalizeLog1p        values: float32
    DirectTokens  BinnedTokens  LogTokens   tokens: int32 from 0 to n_tokens - 1, and 0 is "no count"
    RankOrder                               genes in order of expression: the indices are the sequence
    Compose                                 one after the other

A transform is a frozen value: it compares by its settings, pickles, and its `repr` is the call that makes it. Zero
always becomes 0, so that the dense form of a result is right as well. `GeneVocabulary` numbers genes alike for several
datasets.
"""

from ingest.load.transform.compose import Compose
from ingest.load.transform.normalize import Log1p, Normalize, NormalizeLog1p
from ingest.load.transform.per_gene import PerGene, gene_medians
from ingest.load.transform.rank import RankOrder
from ingest.load.transform.tokens import BinnedTokens, DirectTokens, LogTokens
from ingest.load.transform.vocabulary import GeneVocabulary

__all__ = [
    "BinnedTokens",
    "Compose",
    "DirectTokens",
    "GeneVocabulary",
    "Log1p",
    "LogTokens",
    "Normalize",
    "NormalizeLog1p",
    "PerGene",
    "RankOrder",
    "gene_medians",
]

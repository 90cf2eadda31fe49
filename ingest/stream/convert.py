"""One file's X as CSC or as CSR, everything else carried along, in memory that does not grow with the file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ingest.stream.handle import AnnData
from ingest.stream.matrix.carry import Selection
from ingest.stream.matrix.rewrite import write_file
from ingest.stream.matrix.source import describe_x
from ingest.stream.matrix.work import Work, check_chunk_size
from ingest.stream.output import output_for
from ingest.stream.saying import say
from ingest.stream.storage import address_of_data, open_data

if TYPE_CHECKING:
    import os

    from ingest.stream.matrix.work import Reached

__all__ = ["convert_to_csc", "convert_to_csr"]


def convert_to_csc(
    data: Any,
    *,
    output_path: str | os.PathLike[str] | None = None,
    chunk_size: int | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    data_name: str | None = None,
    verbose: bool = True,
    reached: Reached | None = None,
) -> AnnData:
    """Write a file whose X lies by columns, as ``scipy.sparse.csc_matrix`` has it; its type stays.

    Parameters
    ----------
    data
        Path or URL, backed AnnData, or our handle: X ``(n_obs, n_vars)`` of any layout.
    output_path
        None: ``ingest_csc.h5ad`` beside the input, or as `ingest.stream.resolve_output_path` says.
    chunk_size
        Rows, or of CSC columns, handled together, at most; None: as `ingest.stream.calculate_optimal_chunk_size`, or
        `ingest.stream.calculate_optimal_gene_chunk_size`, says.
    verbose
        Say on stderr what was done.
    reached
        Is told now and then which matrix is read, how many of its lines are, of how many.

    Returns
    -------
    AnnData
        Handle on the output; on the input, and nothing is written, where X lies so already.

    Raises
    ------
    TypeError
        `data` names no file.
    NoFileError, NoMatrixError
        A FileNotFoundError; a ValueError: there is no X.
    HostileFileError, NotCountsError
        The file breaks a rule; X holds no numbers.
    AlreadyExistsError, ConfigError, CredentialsError
        The output's name is taken by what another input made; it cannot be written.
    """
    named = {"output_path": output_path, "output_dir": output_dir, "data_name": data_name}
    return _convert(data, "csc", named, chunk_size, verbose=verbose, reached=reached)


def convert_to_csr(
    data: Any,
    *,
    output_path: str | os.PathLike[str] | None = None,
    chunk_size: int | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    data_name: str | None = None,
    verbose: bool = True,
    reached: Reached | None = None,
) -> AnnData:
    """Write a file whose X lies by rows, as ``scipy.sparse.csr_matrix`` has it; its type stays.

    Of a dense X what is not zero is taken. Parameters, result and errors as of `convert_to_csc`.
    """
    named = {"output_path": output_path, "output_dir": output_dir, "data_name": data_name}
    return _convert(data, "csr", named, chunk_size, verbose=verbose, reached=reached)


def _convert(
    data: Any,
    layout: Literal["csr", "csc"],
    named: dict[str, Any],
    chunk_size: int | None,
    *,
    verbose: bool,
    reached: Reached | None,
) -> AnnData:
    check_chunk_size(chunk_size)
    with open_data(data) as file:
        matrix = describe_x(file)
        if matrix.layout == layout:
            say(f"{file.name}: X is {layout.upper()} already; nothing was written", verbose=verbose)
            return AnnData(address_of_data(data))
        output = output_for(data, file, suffix=layout, **named)
        write_file(file, output, Selection(), layout=layout, work=Work(most_lines=chunk_size, reached=reached))
        say(f"{file.name}: X, {matrix.layout}, as {layout.upper()} in {output}", verbose=verbose)
    return AnnData(output)

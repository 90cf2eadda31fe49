"""How commands present themselves: help that ends with examples, options from a file and the environment."""

from __future__ import annotations

import difflib
import math
import os
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ingest.cli.config_file import QUALITY_TABLES, read_settings, unknown_setting
from ingest.cli.log_lines import log_format_option
from ingest.errors import ConfigError
from ingest.json_lines import json_lines_are_on

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CONFIG_RULES", "ByteSize", "Command", "Group", "MegabytesPerSecond", "config_option", "origin_of"]

CONFIG_RULES = "quality_control"
"""Where a context keeps (file, rules) of a config file."""

_ENDPOINT = "endpoint_url"
_IN_FILE = "in_file"
"""Where a context keeps the look-alike that a config file may lie in."""

_ENVIRONMENT = "CELL_INGEST_"
_GENE_OPTIONS = ("gene-filter", "genes", "max-genes", "strip-version", "normalize", "target-sum")
_GENE_RULES = ("min_cells", "min_cells_pct", "min_cells_per_gene", "mito_genes")


def _example_lines(examples: Sequence[str], formatter: click.HelpFormatter) -> None:
    if examples:
        with formatter.section("Examples"):
            for example in examples:
                formatter.write(f"  {example}\n")


class Group(click.Group):
    """A group whose help ends with examples and whose typos get a suggestion."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        del ctx
        _example_lines(self.examples, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; of an interruption click would end the line on stderr first, which is no JSON."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if json_lines_are_on():
                raise click.Abort from None
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one was probably meant."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            meant = f"; did you mean '{close[0]}'?" if close else f"; there is {', '.join(self.list_commands(ctx))}"
            raise click.UsageError(f"no command '{args[0]}'{meant}", ctx)
        return super().resolve_command(ctx, args)


class Command(click.Command):
    """A command whose help ends with examples and whose options may come from the environment.

    Flags beat the config file, which beats ``CELL_INGEST_<OPTION>``, which beats defaults. All have ``--log-format``.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(log_format_option())
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        del ctx
        _example_lines(self.examples, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with the environment below everything that is said more directly."""
        ctx.default_map = {**_from_environment(self), **(ctx.default_map or {})}
        # Settings are read before any other option: where they are is looked for by hand.
        ctx.meta[_ENDPOINT] = _said(args, "--endpoint-url") or ctx.default_map.get("endpoint_url")
        return super().parse_args(ctx, args)


def origin_of(error: click.UsageError) -> str | None:
    """Say where a value that is refused was said, if not on the command line: in which file, or which variable."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None or not error.param.name:
        return None
    name = error.param.name
    if error.ctx.get_parameter_source(name) != ParameterSource.DEFAULT_MAP:
        return None
    path, names = error.ctx.meta.get(_IN_FILE, ("", frozenset()))
    return str(path) if name in names else _ENVIRONMENT + name.upper()


def _said(args: Sequence[str], option: str) -> str | None:
    """Return what stands behind `option` in a command line, the last time."""
    found = None
    for word, following in zip(args, [*args, ""][1:], strict=True):
        if word == option:
            found = following
        elif word.startswith(f"{option}="):
            found = word.removeprefix(f"{option}=")
    return found


def _options(command: click.Command) -> dict[str, click.Option]:
    return {
        parameter.name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name and parameter.name not in {"config", "help"}
    }


def _from_environment(command: click.Command) -> dict[str, Any]:
    return {
        name: os.environ[key].split() if option.multiple else os.environ[key]
        for name, option in _options(command).items()
        if (key := _ENVIRONMENT + name.upper()) in os.environ
    }


_ALIASES = {"chunk-size": "cells-per-chunk", "compression-level": "level"}
"""Settings that the first configurations of the kind had under other names."""


def _read_config(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    settings = read_settings(value, endpoint_url=ctx.meta.get(_ENDPOINT))
    names = _spellings(ctx.command)
    tables = QUALITY_TABLES if "qc" in names else ()
    rules: dict[str, Any] = {}
    said: dict[str, Any] = {}
    for key, setting in settings.items():
        if key in tables:
            _read_table(value, key, setting, names, said, rules)
        elif tables and key == "subset_to_control_cells":
            rules[key] = setting
        else:
            _read_setting(value, key, setting, names, said)
    ctx.default_map = {**(ctx.default_map or {}), **_as_typed(ctx.command, said)}
    ctx.meta[CONFIG_RULES] = (value, rules)
    ctx.meta[_IN_FILE] = (value, frozenset(said))
    return value


def _read_setting(path: str, key: str, setting: Any, names: dict[str, str], said: dict[str, Any]) -> None:
    name = key.replace("_", "-")
    name = _ALIASES.get(name, name)
    if name not in names:
        raise unknown_setting(path, key, [*names, *(_ALIASES if "level" in names else ())])
    if isinstance(setting, dict):
        raise ConfigError(f"{path}: '{key}' is a table; settings stand at the top level", kind="bad-config")
    said[names[name]] = setting


def _read_table(
    path: str, table: str, settings: Any, names: dict[str, str], said: dict[str, Any], rules: dict[str, Any]
) -> None:
    """Take the rules of one table, and of genes the options of the command about them."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: '{table}' is no table of settings", kind="bad-config")
    for key, setting in settings.items():
        if setting is None:
            continue
        if table == "gene_processing" and key.replace("_", "-") in _GENE_OPTIONS:
            _read_setting(path, key, setting, names, said)
        elif table == "gene_processing" and key.replace("-", "_") not in _GENE_RULES:
            raise unknown_setting(f"{path}: gene_processing", key, [*_GENE_OPTIONS, *_GENE_RULES])
        else:
            rules[key] = setting


def _spellings(command: click.Command) -> dict[str, str]:
    """Return long option, without its dashes -> parameter."""
    return {
        spelling.removeprefix("--"): name
        for name, option in _options(command).items()
        for spelling in option.opts
        if spelling.startswith("--")
    }


def _as_typed(command: click.Command, said: dict[str, Any]) -> dict[str, Any]:
    """Return lists as the command line spells them: an option for each item, or the items with commas between."""
    repeatable = {name for name, option in _options(command).items() if option.multiple}
    return {name: _listed(setting) if name in repeatable else _joined(setting) for name, setting in said.items()}


def _listed(setting: Any) -> list[str]:
    return [str(item) for item in setting] if isinstance(setting, list) else [str(setting)]


def _joined(setting: Any) -> Any:
    return ",".join(_listed(setting)) if isinstance(setting, list) else setting


config_option = click.option(
    "--config",
    is_eager=True,
    callback=_read_config,
    metavar="FILE|URL",
    help="TOML or JSON file of settings, named as the long options; flags beat it.",
)


class MegabytesPerSecond(click.ParamType[float]):
    """``50`` or ``12.5``: bytes a second, over a million."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return megabytes a second."""
        try:
            rate = float(value)
        except ValueError:
            self.fail(f"'{value}' is no number; it is megabytes a second, such as 50 or 12.5", param, ctx)
        if not 0 < rate < math.inf:
            self.fail(f"'{value}' megabytes a second carry nothing", param, ctx)
        return rate


class ByteSize(click.ParamType[int]):
    """``1.5G``, ``800M``, ``2GiB`` or a plain number of bytes."""

    name = "size"
    _UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}  # noqa: RUF012  # never changed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes."""
        if isinstance(value, int):
            return value
        text = str(value).strip().upper().removesuffix("B").removesuffix("I")
        unit = text[-1:] if text[-1:] in self._UNITS else ""
        try:
            size = int(float(text.removesuffix(unit) if unit else text) * self._UNITS[unit])
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is no size; write 1.5G or 800M", param, ctx)
        if size <= 0:
            self.fail(f"'{value}' is no size above zero", param, ctx)
        return size

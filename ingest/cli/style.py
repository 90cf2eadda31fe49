"""How commands present themselves: help that ends with examples, options from a file and the environment."""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ingest.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ByteSize", "Command", "Group", "config_option"]

_ENVIRONMENT = "CELL_INGEST_"


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

    Flags beat the config file, which beats ``CELL_INGEST_<OPTION>``, which beats defaults.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        del ctx
        _example_lines(self.examples, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, with the environment below everything that is said more directly."""
        ctx.default_map = {**_from_environment(self), **(ctx.default_map or {})}
        return super().parse_args(ctx, args)


def _options(command: click.Command) -> dict[str, click.Option]:
    return {
        parameter.name: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name and parameter.name not in {"config", "help"}
    }


def _from_environment(command: click.Command) -> dict[str, Any]:
    return {
        name: os.environ[_ENVIRONMENT + name.upper()]
        for name in _options(command)
        if _ENVIRONMENT + name.upper() in os.environ
    }


def _read_config(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        settings = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{value}: no readable TOML file ({error})", kind="bad-config") from error
    names = _spellings(ctx.command)
    said: dict[str, Any] = {}
    for key, setting in settings.items():
        if key.replace("_", "-") not in names:
            close = difflib.get_close_matches(key.replace("_", "-"), names, n=1)
            meant = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"{value}: no setting '{key}'{meant}", kind="bad-config")
        if isinstance(setting, dict):
            raise ConfigError(f"{value}: '{key}' is a table; settings stand at the top level", kind="bad-config")
        said[names[key.replace("_", "-")]] = _as_typed(setting)
    ctx.default_map = {**(ctx.default_map or {}), **said}
    return value


def _spellings(command: click.Command) -> dict[str, str]:
    """Return long option, without its dashes -> parameter."""
    return {
        spelling.removeprefix("--"): name
        for name, option in _options(command).items()
        for spelling in option.opts
        if spelling.startswith("--")
    }


def _as_typed(setting: Any) -> Any:
    """Return a list as the command line spells it: its items with commas between."""
    return ",".join(str(item) for item in setting) if isinstance(setting, list) else setting


config_option = click.option(
    "--config",
    type=click.Path(dir_okay=False),
    is_eager=True,
    callback=_read_config,
    metavar="FILE",
    help="TOML file of settings, named as the long options; flags beat it.",
)


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

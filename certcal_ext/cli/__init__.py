# SPDX-License-Identifier: MIT
"""The command line: ``certcal``. One file a subcommand; each imports what it needs when it runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

try:
    import typer
except ImportError as error:
    raise SystemExit(
        'certcal: error: the command line needs typer: pip install "certcal_ext[cli]"'
    ) from error

from certcal_ext.cli._config import configurable

__all__ = ["SUBCOMMANDS", "app", "main"]

_NAMES = "certify bound compare recalibrate forecast milp baselines replay train attack report export demo doctor"

#: Module of each subcommand, which holds a function of the same name and its EXAMPLES; in the order of ``--help``.
SUBCOMMANDS = {name: import_module(f"{__name__}.{name}") for name in _NAMES.split()}

app = typer.Typer(
    name="certcal",
    help="Exact worst-case calibration of smoothed classifiers under every l2 attack of a given "
    "radius.",
    epilog="Start with: certcal demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _module in SUBCOMMANDS.items():
    app.command(_name, epilog=_module.EXAMPLES)(configurable(getattr(_module, _name)))


def _print_version(asked: bool) -> None:
    if asked:
        from certcal_ext import __version__

        typer.echo(f"certcal {__version__}")
        raise typer.Exit


@app.callback()
def _options_before_the_subcommand(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options that come before the subcommand."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 on success, 1 where a replay differs, 2 on bad input.

    Args:
        arguments: the words after ``certcal``; None takes them from the process.

    Raises:
        SystemExit: always, with the exit code.
    """
    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="certcal")

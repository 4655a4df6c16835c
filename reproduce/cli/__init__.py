"""python -m reproduce: what there is, what is done, what came out, and doing the rest."""

from __future__ import annotations

import os
import sys

from reproduce.cli.arguments import parser, printable


def main(argv: list[str] | None = None) -> int:
    """Do what the arguments say; returns the exit code: 0, 1 if something failed, 2 for bad input
    or no room, 75 (running.LEFT) where work is left."""
    args = parser(__doc__).parse_args(argv)
    # These take seconds to import; help and a bad argument do without.
    import torch

    from reproduce.cli import exporting, listing, running, showing

    commands = {
        "list": listing.show_list,
        "status": listing.status,
        "run": running.run,
        "show": showing.show,
        "compare": showing.compare,
        "export": exporting.export,
    }
    try:
        return commands[args.command](args)
    except BrokenPipeError:  # as in "list | head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, torch.AcceleratorError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 2

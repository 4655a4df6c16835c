"""What the command line takes."""

from __future__ import annotations

import argparse
import re

from reproduce import __version__, names


def seconds(text: str) -> float:
    """A duration such as "90s", "9m" or "1h30m", in seconds, up to a year."""
    match = re.fullmatch(r"(?:(\d{1,8})h)?(?:(\d{1,8})m)?(?:(\d{1,8})s)?", text, re.ASCII)
    if not text or not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write 90s, 9m or 1h30m")
    h, m, s = (int(part or 0) for part in match.groups())
    total = 3600 * h + 60 * m + s
    if not 0 < total <= 366 * 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 1s and 8784h")
    return total


def seed(text: str) -> int:
    """A whole number in 0..1000000."""
    if not re.fullmatch(r"\d{1,7}", text, re.ASCII) or int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in 0..1000000")
    return int(text)


def key(text: str) -> str:
    """The first 4 to 8 hex digits of a key."""
    if not re.fullmatch(r"[0-9a-f]{4,8}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no key; give its first 4 to 8 hex digits")
    return text


def printable(text: object) -> str:
    """A text in one line, in which nothing steers the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        super().error(printable(message))


def parser(description: str) -> argparse.ArgumentParser:
    """Of all commands. Args: description: what they are for, in a line."""
    top = _Parser(prog="python -m reproduce", description=description)
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text)

    selecting = [
        command("list", "print the networks of the book and what is measured of them"),
        command("status", "say what is done, missing or failed, and how long the rest would take"),
        command("run", "run what is missing; stop with Ctrl-C, resume by calling again"),
    ]
    for one in selecting:
        _filters(one)
    _running(selecting[-1])
    show = command("show", "what was asked, what came out, at what cost, and where the file is")
    show.add_argument("key", type=key, metavar="KEY", help="of a network or measurement")
    compare = command(
        "compare", "by how many points one is right more often, on the images that both met"
    )
    for which in ("one", "other"):
        what = "of a measurement, or of a network for all attacks of its trial"
        compare.add_argument(which, type=key, metavar="KEY", help=what)
    export = command("export", "print a table of the book as CSV, or as LaTeX to two decimals")
    export.add_argument("table", nargs="?", metavar="TABLE", help="without: the names of all")
    what = "laptop where it is not given; the claims are of all scales"
    export.add_argument("--scale", choices=names.SCALES, help=what)
    form = export.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="this is the default")
    form.add_argument("--latex", action="store_true", help="for the booktabs package")
    for one in (*selecting[:-1], show, compare):
        one.add_argument("--json", action="store_true", help="one object a line")
    return top


def _filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--paper", choices=names.PAPERS)
    command.add_argument("--scale", choices=names.SCALES)
    command.add_argument("--seed", type=seed, help="this seed only")
    command.add_argument("--dataset", choices=names.DATASETS)
    command.add_argument("--cell", help="only this network, such as dynamic-2bit or 1bit-dithered")
    suites = ("network", *names.SUITES)
    command.add_argument("--suite", choices=suites, help="only this of each network")
    what = "only the network or measurement of this key; with --suite, this of that network"
    command.add_argument("--key", type=key, help=what)


def _running(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--time-budget", type=seconds, metavar="9m", help="stop cleanly after this"
    )
    command.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be run, and how long it would take",
    )
    command.add_argument("--quiet", action="store_true", help="print failures alone")

"""export: a table of the book, for a spreadsheet or a paper."""

from __future__ import annotations

import argparse


def export(args: argparse.Namespace) -> int:
    from reproduce.report.catalogue import TABLES  # with matplotlib, which no other command needs

    if args.table is None:
        print("\n".join(TABLES))
        return 0
    if args.table not in TABLES:
        raise ValueError(f"no table {args.table!r}; there are {', '.join(TABLES)}")
    if args.table == "claims" and args.scale:
        raise ValueError("each claim is decided by the best scale there is; leave --scale out")
    scale = args.scale or "laptop"
    frame = TABLES[args.table](scale)
    if frame.empty or not frame.notna().any(axis=None):
        raise ValueError(f"nothing of {args.table} was run at scale {scale!r}")
    if args.latex:
        options = {"index": False, "escape": True, "na_rep": "--", "float_format": "%.2f"}
        print(frame.to_latex(**options), end="")
    else:
        print(frame.to_csv(index=False, float_format="%.10g"), end="")
    return 0

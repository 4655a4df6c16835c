"""The authors' own networks: Table I to the image, and Table II where one bit explains it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from reproduce.papers.double import kind_name
from reproduce.report.double import (
    Kind,
    by_kind,
    decided,
    published_table,
    trained_on,
    words,
)
from reproduce.report.results import Results

EDGE = 128  # grey value: where one bit parts dark from light
EPS = 8  # of Table II, in grey values


def agreement(results: Sequence[Results]) -> pd.DataFrame:
    """How many of the 10,000 test images each network judges rightly, in each clean cell that was
    run and in the authors' result files.

    Returns: trained, tested (kinds in words), stored (dithered images as they are stored), exact
             (on exact levels; NaN where these are the same, or it was not run), file, printed (%).
    """
    printed, rows = published_table("I"), []
    for one in results:
        suite = one.suite("table")
        for kind, bits in by_kind(one, "clean").items():
            if "files" in suite:
                name = kind_name(*kind)
                exact = suite.get(f"exact/{name}")
                row = {"trained": words(trained_on(one)), "tested": words(kind)}
                row |= {"stored": bits.sum(), "exact": np.nan if exact is None else exact.correct}
                row["file"] = suite["files"].values["clean"][name]
                rows.append(row | {"printed": printed.loc[trained_on(one), kind]})
    return pd.DataFrame(rows)


def reaches_one_bit(kind: Kind) -> bool:
    """Whether noise of EPS can move a stored image of a kind over the edge of one bit."""
    bits, dithered = kind
    top = 2**bits - 1
    levels = [255 * k // top if dithered else 255 * k / top for k in range(top + 1)]
    return any((v < EDGE <= v + EPS) or (v - EPS < EDGE <= v) for v in levels)


def one_bit(results: Sequence[Results]) -> pd.DataFrame:
    """The cells of Table II that the scripts' defaults explain: re-quantised to one bit throughout.

    The 1-bit network on images that are not dithered, the 8-bit network on dithered ones, in place
    of the kind of image that the table's column names. Where the noise cannot cross the edge of one
    bit, the attack cannot matter, and the clean cell is the attacked one.

    Returns: network, column (of Table II, in words), attack (whether one was needed and run),
             images, ours, file (shares in percent), printed (%); a row a cell that is known.
    """
    printed, rows = published_table("II"), []
    for one in results:
        own = trained_on(one)
        if own not in ((1, False), (8, False)):
            continue
        suite = one.suite("table")
        for bits in range(1, 8):
            kind = bits, own == (8, False)
            name, column = kind_name(*kind), (bits, True)
            crossed = reaches_one_bit(kind)
            record = suite.get(f"{'pgd' if crossed else 'clean'}-1bit/{name}")
            if record is not None and "files" in suite:
                said = suite["files"].values["released"][kind_name(*column)] / 100
                where = (words(own), words(column), crossed, record.total)
                rows.append((*where, record.accuracy, said, printed.loc[own, column]))
    columns = ["network", "column", "attack", "images", "ours", "file", "printed"]
    return pd.DataFrame(rows, columns=columns)


def without_an_attack(results: Sequence[Results]) -> pd.DataFrame:
    """Table II where noise of EPS cannot change what the second quantisation hands on, so that the
    attacked cell is the clean one, whatever the attack.

    Returns: network, column (of Table II, kinds), ours, file (images of 10,000), printed (%), like
             (the column of the same network whose `ours` is what the file says, the cell's own
             where they agree; None where there is none).
    """
    printed, columns, rows = published_table("II"), decided(EPS), []
    for one in results:
        suite, own = one.suite("table"), trained_on(one)
        if "files" not in suite or any(f"clean/{kind_name(*k)}" not in suite for k in columns):
            continue
        ours = {kind: suite[f"clean/{kind_name(*kind)}"].correct for kind in columns}
        for kind, count in ours.items():
            said = suite["files"].values["released" if kind[1] else "first"][kind_name(*kind)]
            same = [k for k in (kind, *columns) if ours[k] == said]
            rows.append((own, kind, count, said, printed.loc[own, kind], (*same, None)[0]))
    names = ["network", "column", "ours", "file", "printed", "like"]
    return pd.DataFrame(rows, columns=names)

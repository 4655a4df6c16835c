"""DataFrames as Markdown, and the one way in which a share is written with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from reproduce.evaluation import wilson

if TYPE_CHECKING:
    from reproduce.report.results import Results

NONE = "–"  # what stands in a cell where nothing was run


def share(bits: np.ndarray | None, digits: int = 1) -> str:
    """A share of images in percent with Wilson's 95 % interval: "78.2 (74.4–81.6)".

    Args: bits: (N,) bool; None where nothing was run.
    """
    if bits is None or not len(bits):
        return NONE
    low, high = wilson(int(np.sum(bits)), len(bits))
    values = (100 * float(np.mean(bits)), 100 * low, 100 * high)
    return "{0:.{d}f} ({1:.{d}f}–{2:.{d}f})".format(*values, d=digits)


def seeds(values, digits: int = 1, collapsed=()) -> str:
    """Each seed's value, in the order of the seeds; in italics where its training collapsed."""
    shown = [f"{v:.{digits}f}" for v in values]
    lost = [*collapsed, *[False] * len(shown)]
    marked = [f"*{v}*" if gone else v for v, gone in zip(shown, lost, strict=False)]
    return "<br>".join(marked) or NONE


def keys(networks: Results | Sequence[Results]) -> str:
    """The keys of networks' records, as code: the site leads from each to its record.

    Args: networks: the results of one, or of each seed of it.
    """
    several = networks if isinstance(networks, Sequence) else [networks]
    return "<br>".join(f"`{r.network.key}`" for r in several) or NONE


def listed(of: Mapping[str, Results | Sequence[Results]]) -> str:
    """Networks with their records' keys in a line, for a figure that has no column of them.

    Args: of: {a network in words: its results}.
    """
    return " · ".join(
        f"{name}: {keys(results)}".replace("<br>", " ") for name, results in of.items()
    )


def markdown(
    frame: pd.DataFrame,
    digits: int | Mapping[str, int] = 1,
    *,
    index: bool = False,
    of: Mapping[str, Results | Sequence[Results]] | None = None,
) -> str:
    """A DataFrame as a Markdown table; numbers are aligned right, NaN and None are "–".

    Args:   digits: after the point, of all float columns or {column: digits}. index: show it, too.
            of: {what the first column says: the results that its row was read from}; a last column
            then holds the keys of their records.
    Raises: KeyError: a row that `of` does not know.
    """
    if index:
        frame = frame.reset_index()
    if of is not None:
        frame = frame.assign(record=[keys(of[name.strip("*")]) for name in frame.iloc[:, 0]])

    def cell(column: str, value: object) -> str:
        if value is None or (np.isscalar(value) and pd.isna(value)):
            return NONE
        if isinstance(value, float | np.floating):
            places = digits if isinstance(digits, int) else digits.get(column, 1)
            return f"{value:.{places}f}"
        return str(value)

    names = [str(c) for c in frame.columns]
    rows = [[cell(n, v) for n, v in zip(names, row, strict=True)] for row in frame.to_numpy(object)]
    right = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    rule = ["---:" if r else "---" for r in right]
    return "\n".join("| " + " | ".join(line) + " |" for line in [names, rule, *rows])

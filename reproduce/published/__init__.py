"""The numbers that the two papers print, as tidy tables: one row a cell, values as printed.

`value` is in the row's `unit`: "percent", "fraction" (of 1), "points" (percentage points) or "l2".
Bits are empty where the paper uses full precision, also where it prints "32-bit".

- DQA, Table 4: the paper leaves PGD against Defense-GAN blank.
- DQA, Table 6: its clean accuracies at 2 and 3 bits differ from those of Table 2; both are kept.
- Later findings: not the papers' own numbers, but the accuracy that later evaluations left to the
  defences of DQA's Table 4, each with its key in book/references.bib.
- Double quantization, Table II: 30 cells at the right end of the rows trained on 2 to 5 bits
  (from 7-bit on for 2; from dithered 6-bit on for 3, 4 and 5) are lost in the copy we read, so
  they are empty here. The authors' released result files round to 0.001 (trained on 2 bits) and
  0.000 (3 to 5 bits) there, and agree with the other 195 cells and with all of Table I.
- Double quantization, text: `eps_255` is the largest eps, in 1/255, at which the paper says the
  accuracy still holds.
"""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files

import pandas as pd

from reproduce.checks import shown
from reproduce.storage import Damaged

SOURCES: dict[str, str] = {
    "dqa_table1": "DQA, Table 1",
    "dqa_table2": "DQA, Table 2",
    "dqa_table3": "DQA, Table 3",
    "dqa_table4": "DQA, Table 4",
    "dqa_table5": "DQA, Table 5",
    "dqa_table6": "DQA, Table 6",
    "dqa_text": "DQA, text",
    "later_findings": "Later evaluations of the defences of DQA, Table 4",
    "double_quantization_table1": "Double quantization, Table I",
    "double_quantization_table2": "Double quantization, Table II",
    "double_quantization_text": "Double quantization, text",
}
NAMES: tuple[str, ...] = tuple(SOURCES)

# The start of each file's sha256: an edit that is meant changes it here, too.
_SHA256 = {
    "dqa_table1": "5bdd8809776083d1",
    "dqa_table2": "1f4f30760b7fc2c4",
    "dqa_table3": "154734dfb9ea9172",
    "dqa_table4": "97bb226c4360e62c",
    "dqa_table5": "5722019aeb7712fb",
    "dqa_table6": "918e94bb80f43f01",
    "dqa_text": "ca53896a562704db",
    "later_findings": "ce8089b7d7e2b4f3",
    "double_quantization_table1": "bb00f318369598c3",
    "double_quantization_table2": "3df041d937ec33a2",
    "double_quantization_text": "2dfea44253eaa28f",
}

_DTYPES = {
    "section": str,  # else "5.1" becomes a number
    "bits": "Int64",
    "train_bits": "Int64",
    "test_bits": "Int64",
    "eps_255": "Int64",
    "value": "float64",
}


def load(name: str) -> pd.DataFrame:
    """Return one published table in long form, a fresh frame at each call.

    Args:    name: one of `NAMES`; `SOURCES[name]` says which table of which paper.
    Returns: a row a printed cell: what identifies it, then `value` (float64, NaN where missing)
             and `unit`. Bits and `eps_255` are nullable Int64.
    Raises:  ValueError: `name` is not in `NAMES`. Damaged: the file is cut, changed or another.
    """
    if not isinstance(name, str) or name not in SOURCES:
        raise ValueError(f"unknown published table {shown(name)}: choose one of {', '.join(NAMES)}")
    content = (files(__name__) / f"{name}.csv").read_bytes().replace(b"\r\n", b"\n")
    if hashlib.sha256(content).hexdigest()[:16] != _SHA256[name]:
        raise Damaged(f"the table {name}.csv is not the one of this version; restore it")
    return pd.read_csv(io.BytesIO(content), dtype=_DTYPES)

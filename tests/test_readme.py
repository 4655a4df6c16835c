"""What README.md says of the results is what the records say."""

from __future__ import annotations

import re
from pathlib import Path

from reproduce import published
from reproduce.papers import double, dqa
from reproduce.quantizers import filter_radius
from reproduce.report.double_before import worst_before
from reproduce.report.results import Results

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_numbers_of_the_first_paragraph_are_those_of_papers_and_records():
    paragraph = README.split("\n\n")[1]
    first = Results(dqa.network("mnist", "fixed", 1, scale="paper", mixed=True))
    second = Results(double.network(2, True))
    table = published.load("dqa_table1").query("attack == 'pgd' and activation == 'fixed'")
    kind = "train_bits == 2 == test_bits and train_dithered and test_dithered"
    expected = [
        table.set_index("bits").value[1],
        first.suite("table")["pgd"].accuracy,
        100 * first.worst_case().mean(),
        100 * published.load("double_quantization_table2").query(kind).value.item(),
        second.suite("table")["pgd/2bit-dithered"].accuracy,
        100 * worst_before(second).mean(),
    ]
    said = [float(number) for number in re.findall(r"([\d.]+) %", paragraph)]
    assert said == [round(float(v), 1) for v in expected]
    (radius,) = re.findall(r"up to\s+(\d+) of 255", paragraph)
    assert int(radius) == filter_radius(2)

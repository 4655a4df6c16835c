"""What every argument of a kind is held to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reproduce import checks

ODD = ["3", None, [3], torch.tensor(3), np.array(3), 3j, {}, b"3", torch.zeros(4, 50)]


def says_one_line(error, match, call, *args, **options):
    with pytest.raises(error, match=match) as caught:
        call("name", *args, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@given(st.integers(-5, 15))
def test_a_whole_number_is_taken_within_its_limits_alone(value):
    for kind in (int, np.int64, np.int8):
        if 0 <= value <= 9:
            got = checks.whole("n", kind(value), 0, 9)
            assert got == value and type(got) is int
        else:
            says_one_line(
                ValueError, rf"name is .*{value}.*in 0\.\.9", checks.whole, kind(value), 0, 9
            )


@pytest.mark.parametrize("value", [*ODD, True, False, np.True_, 3.0, math.nan], ids=repr)
def test_nothing_else_is_a_whole_number(value):
    says_one_line(TypeError, "name is .*; it must be a whole number", checks.whole, value)


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), np.int16(1)])
def test_a_number_comes_back_as_plain_python(value):
    got = checks.number("x", value, 0, 1)
    assert got == value and type(got) in (int, float)


@pytest.mark.parametrize("value", [*ODD, True, np.False_], ids=repr)
def test_nothing_else_is_a_number(value):
    says_one_line(TypeError, "name is .*; it must be a finite number", checks.number, value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9, 10**400, -(10**400)])
def test_a_number_is_finite_and_not_below_its_least(value):
    says_one_line(ValueError, "finite number, at least 0", checks.number, value)


def test_an_end_counts_unless_the_number_must_lie_inside():
    assert checks.number("x", 1, 0, 1) == 1 and checks.number("x", 0.0) == 0
    for end in (0, 1):
        says_one_line(ValueError, "between 0 and 1", checks.number, end, 0, 1, inside=True)
    says_one_line(ValueError, "finite number above 0", checks.number, 0, inside=True)
    says_one_line(ValueError, r"in \[0, 1\]", checks.number, 2, 0, 1)


@pytest.mark.parametrize(
    "value", [0, 1, "false", "False", None, [True], torch.tensor(True)], ids=repr
)
def test_only_true_and_false_are_flags(value):
    says_one_line(TypeError, "True or False", checks.flag, value)
    assert checks.flag("f", np.True_) is True and checks.flag("f", False) is False


@pytest.mark.parametrize("value", ["c", None, 1, ["a"], True], ids=repr)
def test_a_choice_is_one_of_its_names(value):
    says_one_line(ValueError, "choose one of a, b", checks.choice, value, Literal["a", "b"])
    assert checks.choice("x", "b", Literal["a", "b"]) == "b"


def test_a_seed_is_one_that_torch_takes():
    torch.manual_seed(checks.seed("seed", 2**63 - 1))
    for value in (-1, 2**63, 10**300):
        says_one_line(ValueError, "name is", checks.seed, value)


def test_settled_fields_are_plain_python():
    @dataclass(frozen=True)
    class Some:
        n: int

        def __post_init__(self):
            checks.settle(self, checks.whole, "n", least=2)

    assert type(Some(np.int32(2)).n) is int
    with pytest.raises(ValueError, match="n is 1"):
        Some(1)

"""What is measured does the work it is named for."""

from __future__ import annotations

import importlib.util
import re
import time
from pathlib import Path

import pytest
import torch

from reproduce import runner
from reproduce.dither import floyd_steinberg

_SPEC = importlib.util.spec_from_file_location(
    "speed", Path(__file__).resolve().parent.parent / "benchmarks" / "speed.py"
)
speed = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(speed)


@pytest.mark.parametrize("bits", [1, 2, 5, 7])
def test_the_plain_dither_gives_what_the_fast_one_gives(bits):
    generator = torch.Generator().manual_seed(bits)
    images = torch.randint(256, (2, 3, 9, 11), generator=generator, dtype=torch.uint8)
    assert torch.equal(speed.dither_pixel_by_pixel(images, bits), floyd_steinberg(images, bits))


def test_sides_take_turns_and_a_rate_is_that_of_the_median_turn_after_the_first(monkeypatch):
    clock, turns = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    durations = {"a": iter([100, 1, 9, 2, 5]), "b": iter([100, 4, 4, 4, 4])}

    def side(name: str):
        def job() -> None:
            turns.append(name)
            clock[0] += next(durations[name])

        return job

    found = speed.rates({"a": (side("a"), 10), "b": (side("b"), 20)}, seconds=11.5)
    assert turns == list("abababab"), "18 of 23 seconds after two turns, so there is a third"
    assert found == {"a": 10 / 2, "b": 20 / 4}


def test_the_benchmark_names_its_device_and_measures_every_stage(capsys):
    speed.main(seconds=0, batch=4, steps=1)
    out = capsys.readouterr().out
    assert out.startswith(f"device: {runner.device_name()}\n")
    speeds = re.findall(r"^  (\S.*?)\s+([\d,.]+)\s+([\d,.]+)x$", out, re.MULTILINE)
    assert len(speeds) == 4 + 4 * 2
    assert all(float(rate.replace(",", "")) > 0 for _, rate, _ in speeds)
    assert speeds[0][0].startswith("pixel by pixel") and speeds[0][2] == "1.0"
    share = float(re.search(r"share of dithering.*: ([\d.]+)%", out)[1])
    assert 0 < share < 100

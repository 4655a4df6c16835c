"""What is measured does the work it is named for."""

from __future__ import annotations

import re
import time

import pytest
import torch

from reproduce import benchmark, experiments
from reproduce.dither import floyd_steinberg


@pytest.mark.parametrize("bits", [1, 2, 5, 7])
def test_the_plain_dither_gives_what_the_fast_one_gives(bits):
    generator = torch.Generator().manual_seed(bits)
    images = torch.randint(256, (2, 3, 9, 11), generator=generator, dtype=torch.uint8)
    assert torch.equal(benchmark.dither_pixel_by_pixel(images, bits), floyd_steinberg(images, bits))


def test_a_rate_is_images_by_time_and_the_first_call_does_not_count(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    durations = iter([100.0, 0.5, 0.5, 0.5])

    def job() -> None:
        clock[0] += next(durations)

    assert benchmark.rate(job, 10, seconds=1.2) == pytest.approx(30 / 1.5)


def test_the_benchmark_names_its_device_and_measures_every_stage(capsys):
    benchmark.main(seconds=0, batch=4, steps=1)
    out = capsys.readouterr().out
    assert out.startswith(f"device: {experiments.device_name()}\n")
    speeds = re.findall(r"^  (\S.*?)\s+([\d,.]+)\s+([\d,.]+)x$", out, re.MULTILINE)
    assert len(speeds) == 4 + 4 * 2
    assert all(float(speed.replace(",", "")) > 0 for _, speed, _ in speeds)
    assert speeds[0][0].startswith("pixel by pixel") and speeds[0][2] == "1.0"
    share = float(re.search(r"share of dithering.*: ([\d.]+)%", out)[1])
    assert 0 < share < 100

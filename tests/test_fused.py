"""A compiled pass gives what the eager operations give, and is used where it should be."""

from __future__ import annotations

import pytest
import torch

from reproduce.kernels import fused as module
from reproduce.kernels.fused import LARGE, fused
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer

compiles = pytest.mark.skipif(not module._compiles("cpu"), reason="torch.compile has no compiler")


@fused
def one_more_if_compiled(x):
    return x + torch.compiler.is_compiling()


@compiles
def test_large_single_and_half_precision_is_compiled_and_nothing_else():
    for dtype in (torch.float32, torch.bfloat16):
        assert one_more_if_compiled(torch.zeros(LARGE, dtype=dtype))[0] == 1
        assert one_more_if_compiled(torch.zeros(LARGE - 1, dtype=dtype))[0] == 0
    assert one_more_if_compiled(torch.zeros(LARGE, dtype=torch.float64))[0] == 0


@pytest.fixture
def without_a_compiler(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand much more")

    module._compiles.cache_clear()
    monkeypatch.setattr(module, "_eager", set())
    monkeypatch.setattr(torch, "compile", fail)
    yield
    module._compiles.cache_clear()


def test_without_a_compiler_the_same_is_computed_eagerly_and_said_once(without_a_compiler, recwarn):
    for _ in range(2):
        assert one_more_if_compiled(torch.zeros(LARGE))[0] == 0
    assert [str(w.message) for w in recwarn] == [
        "torch.compile fails on cpu (RuntimeError: no C++ compiler); "
        "quantised activations and the pooling of LeNet run several times slower"
    ]


def test_a_compiler_that_fails_later_is_said_once_and_done_without(monkeypatch, recwarn):
    def compile_until_the_disk_is_full(function, **_options):
        def compiled(*args):
            if function.__name__ == "<lambda>":  # the probe
                return function(*args)
            raise OSError("No space left on device\nand much more")

        return compiled

    module._compiles.cache_clear()
    monkeypatch.setattr(module, "_eager", set())
    monkeypatch.setattr(torch, "compile", compile_until_the_disk_is_full)
    later = fused(lambda_free)
    for _ in range(2):
        assert torch.equal(later(torch.zeros(LARGE)), torch.ones(LARGE))
    module._compiles.cache_clear()
    (warning,) = recwarn
    assert str(warning.message).startswith(
        "torch.compile fails on cpu (OSError: No space left on device); "
    )


def lambda_free(x):
    return x + 1


def test_an_error_of_the_arguments_is_no_fault_of_the_compiler(monkeypatch, recwarn):
    def wrong(x):
        raise IndexError("of the formula's own")

    monkeypatch.setattr(module, "_eager", set())
    with pytest.raises(IndexError, match="of the formula's own"):
        fused(wrong)(torch.zeros(LARGE))
    assert not recwarn.list and not module._eager


def test_too_little_memory_does_not_make_a_process_eager_for_good(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    module._compiles.cache_clear()
    with monkeypatch.context() as moment:
        moment.setattr(torch, "compile", full)
        with pytest.raises(torch.OutOfMemoryError):
            one_more_if_compiled(torch.zeros(LARGE))
    assert module._compiles.cache_info().currsize == 0


def outcome(quantizer, x, weights):
    x = x.detach().requires_grad_()
    out = quantizer(1 * x)  # no leaf, as within a network
    (weights * out).sum().backward()
    return out.detach(), x.grad


@compiles
@pytest.mark.parametrize("rule", ("straight_through", "sigmoid"))
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("kind", (FixedQuantizer, DynamicQuantizer))
def test_a_large_batch_gives_what_its_images_give_one_by_one(kind, layout, rule):
    shape = 8, 16, 32, 32
    generator = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(shape, generator=generator).to(memory_format=layout) for _ in "xw")
    assert x.numel() >= LARGE > x[0].numel()
    options = {"maximum": "image"} if kind is FixedQuantizer else {}
    whole = kind(3, rule, 5.0, **options)
    out, grad = outcome(whole, x, weights)
    assert out.is_contiguous(memory_format=layout) and grad.is_contiguous(memory_format=layout)

    parts = kind(3, rule, 5.0, **options)
    images = zip(x.split(1), weights.split(1), strict=True)
    expected = [torch.cat(t) for t in zip(*(outcome(parts, *i) for i in images), strict=True)]
    # A value within rounding of a step may fall on either side of it.
    assert ((out - expected[0]).abs() > 1e-6).sum() <= 2
    torch.testing.assert_close(grad, expected[1], rtol=1e-4, atol=1e-5)
    if kind is DynamicQuantizer:
        torch.testing.assert_close(
            whole.thresholds.grad, parts.thresholds.grad, rtol=1e-3, atol=1e-2
        )

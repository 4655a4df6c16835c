"""Quantisers of both papers: of images (linear_quantize) and of activations (Fixed, Dynamic).

Every activation quantiser is a staircase. Its forward pass is always the hard staircase of the
paper; `backward` chooses what stands in for its derivative, which is zero or undefined everywhere:

    "zero"              true autograd: nothing flows through a step
    "straight_through"  round' = 1 (Eq. 3), sgn'(u) = 1 for |u| <= 1 and 0 elsewhere (Eq. 8)
    "tanh"              each step is tanh(u):           sgn'(u) = 1 - tanh(u)^2
    "sigmoid"           each step is 2 sigmoid(Tu) - 1: sgn'(u) = 2 T s (1 - s), s = sigmoid(Tu)

where u is the distance of the input to the step's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reproduce.checks import check_floating, choice, number, whole
from reproduce.kernels.staircases import one_pass

Rounding = Literal["floor", "nearest"]
Backward = Literal["zero", "straight_through", "tanh", "sigmoid"]
Activation = Literal["relu", "fixed", "dynamic"]

GREY_TOLERANCE = 1e-3


def linear_quantize(x: Tensor, bits: int, rounding: Rounding = "floor") -> Tensor:
    """Map each value of `x` to one of 2**bits uniform levels k / (2**bits - 1).

    Args:    x: (...) float in [0, 1]. bits: 1..8. rounding: "floor", as released,
             k = floor(255 x / 2^(8 - bits)); "nearest", our variant: the closest of the levels.
    Returns: same shape and dtype. The gradient is zero almost everywhere.
    Raises:  TypeError: x is no floating point tensor, bits no int. ValueError: bits outside 1..8, a
             value outside [0, 1] or NaN, an unknown rounding.
    Source:  Double quantization, section III.

    >>> (3 * linear_quantize(torch.tensor([0, 0.3, 0.6, 1]), bits=2)).tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    top = 2 ** whole("bits", bits, 1, 8) - 1
    choice("rounding", rounding, Rounding)
    check_floating(x, " in [0, 1]")
    if x.numel():
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"x holds values from {low} to {high}; they must lie in [0, 1]")
    if rounding == "nearest":
        return torch.round(x * top) / top
    # 85/255 - 21/255 in float32 is a hair below 64/255: an edge counts as inside its bin.
    return torch.floor((255 * x + GREY_TOLERANCE) / 2 ** (8 - bits)) / top


def filter_radius(bits: int, rounding: Rounding = "floor") -> int:
    """The largest whole number of grey levels that linear_quantize is certain to remove.

    Every level k / (2**bits - 1), moved by at most this many 255ths and clipped to [0, 1], is
    mapped back to itself. Level k is at g = 255 k / (2**bits - 1) grey levels and its bin runs
    from k 2^(8-bits) up to but not including (k+1) 2^(8-bits) for "floor", and half a spacing to
    either side for "nearest", where a tie is not certain. The two end levels have one neighbour.
    A level that was first rounded to a whole grey value, as in a dithered 8-bit image, is up to one
    off: at 3 and at 5 to 7 bits, "nearest" then holds for one grey level less.

    Args:    bits: 1..8. rounding: "floor" or "nearest".
    Returns: grey levels (1/255): 127, 21, 4, 1, 0 ... for "floor"; 127, 42, 18, 8, 4 ... "nearest".
    Raises:  TypeError: bits is no int. ValueError: bits outside 1..8, an unknown rounding.
    Source:  derived here; Double quantization, section V, observes the effect.

    >>> [filter_radius(bits) for bits in (1, 2, 3, 4)]
    [127, 21, 4, 1]
    """
    top = 2 ** whole("bits", bits, 1, 8) - 1
    spacing = Fraction(255, top)
    if choice("rounding", rounding, Rounding) == "nearest":
        return math.ceil(spacing / 2) - 1
    width = 2 ** (8 - bits)
    below = [spacing * k - width * k for k in range(1, top + 1)]
    above = [width * (k + 1) - spacing * k for k in range(top)]
    return min(math.floor(min(below)), math.ceil(min(above)) - 1)


def _step_slope(u: Tensor, backward: Backward, temperature: Tensor) -> Tensor:
    """The surrogate of sgn'(u), same shape as u."""
    if backward == "straight_through":
        return (u.abs() <= 1).to(u.dtype)
    if backward == "tanh":
        return 1 - torch.tanh(u).square()
    s = torch.sigmoid(temperature * u)
    return 2 * temperature * s * (1 - s)


def _wide(x: Tensor) -> Tensor:
    """Half precision is computed in single precision."""
    return x if x.dtype == torch.float64 else x.float()


def _uniform(x: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Eq. 1-3 of each row of x, (rows, M): the levels, and the max|y| that scaled them."""
    wide = _wide(x)
    largest = torch.tanh(wide.abs().amax(1, keepdim=True))  # tanh rises: one pass of it, not two
    largest = torch.where(largest > 0, largest, 1)
    y = torch.tanh(wide) / largest
    return (2 * torch.round(top * (y / 2 + 0.5)) / top - 1).to(x.dtype), largest


def _uniform_slopes(
    x: Tensor, grad: Tensor, largest: Tensor, top: int, *rule: Any
) -> tuple[Tensor, None]:
    """The gradient of x under a rule (backward, temperature); max|y| is a constant."""
    backward, temperature = rule
    if backward == "zero":
        return torch.zeros_like(x), None
    wide = _wide(x)
    if backward == "straight_through":
        return (grad * ((1 - torch.tanh(wide).square()) / largest)).to(x.dtype), None
    slope = torch.zeros_like(wide)
    for k in range(1, top + 1):
        threshold = torch.atanh((2 * k - top - 1) / top * largest)
        slope = slope + _step_slope(wide - threshold, backward, temperature) / top
    return (grad * slope).to(x.dtype), None


def _signs(x: Tensor, thresholds: Tensor, jumps: Tensor) -> tuple[Tensor]:
    """Eq. 8 as f(x) = 1/2 sum_j jumps[j] sgn(x - thresholds[j])."""
    wide = _wide(x)
    out = torch.zeros_like(wide)
    for j in range(len(jumps)):
        out = out + torch.sign(wide - thresholds[j]) * (jumps[j] / 2)
    return (torch.where(wide.isnan(), wide, out).to(x.dtype),)  # sign(NaN) is 0 and would hide it


def _signs_slopes(
    x: Tensor, grad: Tensor, thresholds: Tensor, jumps: Tensor, *rule: Any
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of x, and, if they are learnt, of the thresholds and the jumps, under a rule (backward,
    temperature, learnt)."""
    backward, temperature, learnt = rule
    wide, grad = _wide(x), _wide(grad)
    slope = torch.zeros_like(wide)
    for_thresholds, for_jumps = [], []
    for j in range(len(jumps)):
        u = wide - thresholds[j]
        if learnt:
            for_jumps.append((grad * torch.sign(u)).sum() / 2)
        if backward == "zero":
            for_thresholds.append(torch.zeros_like(thresholds[j]))
            continue
        step = _step_slope(u, backward, temperature)
        slope = slope + step * (jumps[j] / 2)
        if learnt:
            for_thresholds.append(-(grad * step).sum() * jumps[j] / 2)
    for_x = (grad * slope).to(x.dtype)
    if not learnt:
        return for_x, None, None
    kind = thresholds.dtype
    return for_x, torch.stack(for_thresholds).to(kind), torch.stack(for_jumps).to(kind)


_fixed, _dynamic = one_pass(_uniform, _uniform_slopes), one_pass(_signs, _signs_slopes)


def check_backward(backward: Backward, temperature: float) -> None:
    """Raise an error unless `backward` is a rule and `temperature` a positive, finite number."""
    choice("backward", backward, Backward)
    number("temperature", temperature, inside=True)


class _Quantizer(nn.Module):
    def __init__(self, bits: int, backward: Backward, temperature: float) -> None:
        super().__init__()
        self.bits = whole("bits", bits, 1, 3)
        self.set_backward(backward, temperature)

    def set_backward(self, backward: Backward, temperature: float = 1.0) -> None:
        """Choose the backward rule; the forward pass does not change.

        Raises: TypeError, ValueError: an unknown rule, or a temperature that is no positive number.
        """
        check_backward(backward, temperature)
        self.backward, self.temperature = backward, float(temperature)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, backward={self.backward!r}"


class FixedQuantizer(_Quantizer):
    """Activation quantised to 2**bits uniform levels in [-1, 1].

        y  = tanh(x)                                                            (1)
        y' = y / (2 max|y|) + 1/2                                               (2)
        q  = 2 round((2^bits - 1) y') / (2^bits - 1) - 1                        (3)

    With "straight_through" the rounding passes gradients unchanged, so dq/dx = tanh'(x) / max|y|;
    max|y| is a constant for the gradient.

    Args:    bits: 1..3. backward, temperature: see the module. maximum: "batch", max|y| over the
             whole input, the literal reading (an image's output then depends on its batch);
             "image", over each image alone.
    Shapes:  (N, ...) float -> the same.
    Raises:  TypeError, ValueError: bits outside 1..3, an unknown rule or maximum.
    Source:  DQA, section 3.1, Eq. 1-3.

    >>> FixedQuantizer(bits=2)(torch.tensor([-9, -0.3, 0.3, 9])).mul(3).round().tolist()
    [-3.0, -1.0, 1.0, 3.0]
    """

    def __init__(
        self,
        bits: int,
        backward: Backward = "straight_through",
        temperature: float = 1.0,
        maximum: Literal["batch", "image"] = "batch",
    ) -> None:
        super().__init__(bits, backward, temperature)
        self.maximum = choice("maximum", maximum, Literal["batch", "image"])

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x)
        if not x.numel():
            return x
        rows = len(x) if self.maximum == "image" else 1
        return _fixed(x, 2**self.bits - 1, rule=(self.backward, self.temperature), rows=rows)


class DynamicQuantizer(_Quantizer):
    """Activation quantised to 2**bits levels whose 2**bits - 1 thresholds are learnt.

    With m = 2**bits and t_1 < ... < t_(m-1), Eq. 8 is the staircase with levels

        -1, t_1, ..., t_(m/2-1), t_(m/2+1), ..., t_(m-1), +1

    and a step at each threshold: f(x) = 1/2 sum_j (level_j - level_(j-1)) sgn(x - t_j). For one
    bit it is sgn(x - t_1); for two bits it is Eq. 9. An input exactly at a threshold gets the mean
    of the levels on either side, since sgn(0) = 0. The thresholds get a gradient twice: exactly,
    as levels, and through the surrogate of each sign.

    Args:    bits: 1..3. backward, temperature: see the module. source: "x", Eq. 8 on its input,
             the literal reading; "tanh", on tanh of its input, as in Eq. 1.
    Shapes:  (...) float -> the same; `.thresholds` (2**bits - 1,) float32, starting where the
             fixed quantiser has its steps.
    Raises:  TypeError, ValueError: bits outside 1..3, an unknown rule or source.
    Source:  DQA, section 3.2, Eq. 8 and 9.

    >>> layer = DynamicQuantizer(bits=1)
    >>> layer.thresholds.tolist(), layer(torch.tensor([-0.5, 0, 0.1])).tolist()
    ([0.0], [-1.0, 0.0, 1.0])
    """

    def __init__(
        self,
        bits: int,
        backward: Backward = "straight_through",
        temperature: float = 1.0,
        source: Literal["x", "tanh"] = "x",
    ) -> None:
        super().__init__(bits, backward, temperature)
        self.source = choice("source", source, Literal["x", "tanh"])
        top = 2**bits - 1
        self.thresholds = nn.Parameter((2 * torch.arange(1, top + 1) - top - 1) / top)

    def levels(self) -> Tensor:
        """The (2**bits,) output levels, in the order of the steps."""
        middle = 2 ** (self.bits - 1) - 1
        one = self.thresholds.new_ones(1)
        return torch.cat([-one, self.thresholds[:middle], self.thresholds[middle + 1 :], one])

    def forward(self, x: Tensor) -> Tensor:
        check_floating(x)
        if self.source == "tanh":
            x = torch.tanh(x)
        rule = self.backward, self.temperature, self.thresholds.requires_grad
        return _dynamic(x, self.thresholds, self.levels().diff(), rule=rule)

    @torch.no_grad()
    def project(self) -> None:
        """Put the thresholds back in order and into [-1, 1], which Eq. 9 takes for granted."""
        self.thresholds.copy_(self.thresholds.clamp(-1, 1).sort().values)


def activation(
    name: Activation, bits: int | None = None, **options: Any
) -> Callable[[], nn.Module]:
    """A factory of one activation layer, for the models' `activation` argument.

    Args:    name: "relu" (full precision; takes no bits), "fixed" or "dynamic" (bits 1..3).
             options: passed on to the quantiser.
    Returns: a callable that makes a new layer at each call.
    Raises:  TypeError, ValueError: an unknown name, bits missing, out of range or superfluous.
    Source:  DQA, sections 3.1, 3.2 and 5.

    >>> activation("fixed", 2)()
    FixedQuantizer(bits=2, backward='straight_through')
    """
    if choice("activation", name, Activation) == "relu":
        if bits is not None or options:
            raise ValueError(f"relu takes neither bits nor options; got bits={bits}, {options}")
        return nn.ReLU
    kind: Callable[..., nn.Module] = FixedQuantizer if name == "fixed" else DynamicQuantizer
    kind(bits, **options)
    return lambda: kind(bits, **options)

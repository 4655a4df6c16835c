"""What the live page runs on: its scripts, the book's networks and a few test images.

Named in _config.yml as an extension of Sphinx. After the pages it writes `_static/live/` into the
site: the scripts of book/live/, and from results/ each network and the images as a script of its
own, since a page that is opened as a file may load scripts but not data.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
SOURCES, RESULTS = ROOT / "book" / "live", ROOT / "results"

MNIST, CIFAR10 = "dqa-mnist/paper-{}-mixed-seed0", "double-quantization-cifar10/laptop-{}-seed0"
LENETS = ("relu", *(f"{kind}-{b}bit" for kind in ("fixed", "dynamic") for b in (1, 2, 3)))
NETWORKS = {name: MNIST.format(name) for name in LENETS} | {
    name: CIFAR10.format(name) for name in ("2bit-dithered", "8bit")
}
# The first ten test images, which these records show as they are.
DIGITS = f"{MNIST.format('relu')}-*/examples-*.npz", "image/clean"
PICTURES = f"{CIFAR10.format('8bit')}-*/stages-before-*.npz", "example/sent"

BATCH_NORM_EPS = 1e-5


def one(pattern: str, results: Path = RESULTS) -> Path:
    """The only file or folder in `results` that the pattern fits.

    Raises: FileNotFoundError: there is none. ValueError: there are several.
    """
    found = sorted(results.glob(pattern))
    if not found:
        raise FileNotFoundError(f"the live page needs results/{pattern}, which is not there")
    if len(found) > 1:
        raise ValueError(f"the live page needs one results/{pattern}; there are {len(found)}")
    return found[0]


def network(name: str, results: Path = RESULTS) -> dict:
    """A network as its layers, first to last, and all their numbers in that order.

    Args:    name: one of NETWORKS.
    Returns: {"layers": [{"kind", ...}], "weights": base64 of float32, little-endian}. Batch
             normalisation is folded into the convolution before it.
    """
    folder = one(f"{NETWORKS[name]}-*", results)
    tensors = load_file(folder / "weights.safetensors")
    if name in LENETS:
        what = json.loads((folder / "network.json").read_text(encoding="utf-8"))["configuration"]
        parts = list(_lenet(tensors, what["activation"], what.get("bits")))
    else:
        parts = list(_resnet20(tensors))
    numbers = [np.ravel(a) for _, arrays in parts for a in arrays]
    return {
        "layers": [layer for layer, _ in parts],
        "weights": _base64(np.concatenate(numbers).astype("<f4")),
    }


def images(source: tuple[str, str], results: Path = RESULTS) -> dict:
    """{"shape": [N, C, H, W], "labels": [...], "pixels": base64 of uint8}."""
    pattern, name = source
    with np.load(one(pattern, results)) as arrays:
        pixels, labels = arrays[name], arrays["labels"]
    return {"shape": pixels.shape, "labels": labels.tolist(), "pixels": _base64(pixels)}


def export(folder: Path, results: Path = RESULTS) -> None:
    """Write `_static/live/` of a site whose pages are in `folder`."""
    target = folder / "_static" / "live"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SOURCES, target)
    shown = {"digits": images(DIGITS, results), "pictures": images(PICTURES, results)}
    _script(target / "examples.js", "examples", shown)
    (target / "networks").mkdir()
    for name in NETWORKS:
        what = network(name, results)
        _script(target / "networks" / f"{name}.js", f"networks[{json.dumps(name)}]", what)


Part = tuple[dict, list[np.ndarray]]


def _lenet(tensors: dict, activation: str, bits: int | None) -> Iterator[Part]:
    """reproduce.models.lenet, from the weights' names: "0.weight" is of the layer 0."""

    def activate(number: int) -> Part:
        learnt = [tensors[f"{number}.thresholds"]] if activation == "dynamic" else []
        return {"kind": activation} | ({"bits": bits} if bits else {}), learnt

    for number, padding in ((0, 2), (3, 0)):
        weight, bias = tensors[f"{number}.weight"], tensors[f"{number}.bias"]
        yield _conv(weight, bias, 1, padding)
        yield {"kind": "pool"}, []
        yield activate(number + 2)
    for number in (7, 9, 11):
        yield _linear(tensors, number)
        if number < 11:
            yield activate(number + 1)


def _resnet20(tensors: dict) -> Iterator[Part]:
    """reproduce.models.resnet20: a convolution, nine blocks, the mean of each channel, a layer."""
    yield _conv(*_folded(tensors, "0", "1"), 1, 1)
    yield {"kind": "relu"}, []
    for number in range(3, 12):
        first = _folded(tensors, f"{number}.body.0", f"{number}.body.1")
        second = _folded(tensors, f"{number}.body.3", f"{number}.body.4")
        channels, before = first[0].shape[:2]
        stride = 1 if channels == before else 2
        parts = [_conv(*first, stride, 1), ({"kind": "relu"}, []), _conv(*second, 1, 1)]
        body = [layer for layer, _ in parts]
        block = {"kind": "block", "body": body, "stride": stride, "extra": channels - before}
        yield block, [a for _, arrays in parts for a in arrays]
        yield {"kind": "relu"}, []
    yield {"kind": "mean"}, []
    yield _linear(tensors, 14)


def _folded(tensors: dict, conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution with its batch normalisation."""
    gamma, beta, mean, variance = (
        tensors[f"{norm}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + BATCH_NORM_EPS)
    return tensors[f"{conv}.weight"] * scale[:, None, None, None], beta - mean * scale


def _conv(weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> Part:
    layer = {"kind": "conv", "shape": weight.shape, "stride": stride, "padding": padding}
    return layer, [weight, bias]


def _linear(tensors: dict, number: int) -> Part:
    weight, bias = tensors[f"{number}.weight"], tensors[f"{number}.bias"]
    return {"kind": "linear", "shape": weight.shape}, [weight, bias]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")


def _script(path: Path, name: str, value: dict) -> None:
    path.write_text(f"Live.{name} = {json.dumps(value, separators=(',', ':'))};\n", "ascii")


def setup(app) -> dict:
    """The hook of Sphinx."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        export(Path(app.outdir))

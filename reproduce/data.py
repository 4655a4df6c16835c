"""Data sets as whole tensors: MNIST, CIFAR-10, and two small ones that need no download.

There is no DataLoader: a data set is at most 184 MB of uint8, so it lives on the device whole and
the training loop indexes it with `epoch_order`.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from reproduce.checks import check_values, of_kind, shown, whole
from reproduce.names import DATASETS

# The published md5 sums, by path below the root. CIFAR-10's batches are pickles, which can run code
# when read, and torchvision reads MNIST's raw files without any check.
_FILES = {
    "mnist": {
        "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "cifar10": {
        "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
        "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
        "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
        "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    },
}

_DOWNLOAD_TIMEOUT_S = 15.0
MOST = 2**31 - 1  # images of a data set


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images uint8 (N,C,H,W), labels int64 (N,), and the sha256 of their bytes in field order.

    `load` hands the same object to every caller: copy a tensor before writing into it.
    """

    x_train: Tensor = field(repr=False)
    y_train: Tensor = field(repr=False)
    x_test: Tensor = field(repr=False)
    y_test: Tensor = field(repr=False)
    name: str
    sha256: str


def root() -> Path:
    """Return the folder of the downloaded data: $REPRODUCE_DATA, else ~/.cache/reproduce."""
    return Path(os.environ.get("REPRODUCE_DATA") or "~/.cache/reproduce").expanduser()


def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Return a data set; `mnist` and `cifar10` are downloaded to `root` if they are not there.

    Args:    name: one of DATASETS. root: a folder in torchvision's layout; by default `root()`.
    Returns: the Dataset, the same object at every call with the same name and root.
    Raises:  ValueError: unknown name. FileNotFoundError: not there and no download.
             NotADirectoryError, PermissionError: a root that cannot be read.
             OSError: a file whose md5 is not the published one.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ValueError(f"unknown data set {shown(name)}: choose one of {', '.join(DATASETS)}")
    return _load(name, _folder(root) if name in _FILES else None)


def _folder(given: str | os.PathLike[str] | None) -> Path:
    if given is not None:
        of_kind("root", given, (str, os.PathLike))
    try:
        return (root() if given is None else Path(given).expanduser()).absolute()
    except RuntimeError as error:  # the home of a user who is not there
        raise FileNotFoundError(f"root is {shown(given)}: {error}") from None


@functools.cache
def _load(name: str, folder: Path | None) -> Dataset:
    if folder is not None:
        _fetch(name, folder)
        tensors = (_mnist if name == "mnist" else _cifar10)(folder)
    else:
        tensors = (_digits if name == "digits" else _patterns)()
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.numpy().data)
    return Dataset(*tensors, name=name, sha256=digest.hexdigest())


# --- MNIST and CIFAR-10 ---------------------------------------------------------------------------


def _fetch(name: str, folder: Path) -> None:
    """Make sure that every file of the data set is in `folder`, with the published md5."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(
            f"the data root {folder} is not a folder: set REPRODUCE_DATA to one, or remove the file"
        )
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(
            f"the data root {folder} cannot be read: change its permissions, "
            "or set REPRODUCE_DATA to another folder"
        )
    absent = [file for file in _FILES[name] if not (folder / file).is_file()]
    if absent:
        _download(name, folder, absent)
    md5 = functools.partial(hashlib.md5, usedforsecurity=False)
    for file, expected in _FILES[name].items():
        with open(folder / file, "rb") as content:
            found = hashlib.file_digest(content, md5).hexdigest()
        if found != expected:
            raise OSError(
                f"{folder / file} is damaged: its md5 is {found}, expected {expected}; "
                "delete it and load again"
            )


def _download(name: str, folder: Path, absent: list[str]) -> None:
    """Download beside the target and move whole files in, so that none is ever half there."""
    torchvision_set = {"mnist": torchvision.datasets.MNIST, "cifar10": torchvision.datasets.CIFAR10}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary, _patience():
            torchvision_set[name](temporary, download=True)
            for file in absent:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(temporary) / file, folder / file)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        parent = Path(absent[0]).parent
        layout = f"{parent}/ with {', '.join(Path(file).name for file in _FILES[name])}"
        raise FileNotFoundError(
            f"{name} is not in {folder} (no {absent[0]}) and could not be downloaded ({reason}): "
            f"put {layout} there, or set REPRODUCE_DATA to the folder that holds {parent}"
        ) from None


@contextmanager
def _patience() -> Iterator[None]:
    """Bound the wait for a silent server: torchvision sets no timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        with warnings.catch_warnings():
            # Python 3.12 and 3.13 warn of tarfile's old default filter, which torchvision uses.
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        socket.setdefaulttimeout(before)


def _mnist(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Not torchvision's class: where a MNIST/processed folder exists, it loads that one, unchecked.
    x_train, y_train, x_test, y_test = (
        (read_image_file if "images" in file else read_label_file)(str(folder / file))
        for file in _FILES["mnist"]
    )
    return x_train.unsqueeze(1), y_train, x_test.unsqueeze(1), y_test


def _cifar10(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with warnings.catch_warnings():
        # The batches are of 2009: early releases of numpy 2.4 warn of how they spell uint8.
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        train, test = (torchvision.datasets.CIFAR10(folder, train=part) for part in (True, False))
    x_train, x_test = (
        torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)
    )
    return x_train, torch.tensor(train.targets), x_test, torch.tensor(test.targets)


# --- data sets without a download -----------------------------------------------------------------


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's 1,797 digits, 8x8 of 0..16, as 28x28 of 0..255, in integers throughout."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = digits.images.astype(np.int64) * 255 // 16
    images = np.pad(small.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    # The hash of its number is an image's place: a fixed shuffle that no library's version changes.
    order = sorted(range(len(images)), key=lambda i: hashlib.sha256(b"%d" % i).digest())
    x = torch.from_numpy(images[order].astype(np.uint8)).unsqueeze(1)
    y = torch.from_numpy(digits.target[order].astype(np.int64))
    return x[:1397], y[:1397], x[1397:], y[1397:]


def _patterns() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """2,500 two-coloured 32x32 images; the class is the shape, the rest is chance.

    A mirrored image stays in its class, so `crop_and_flip` suits them. Position, scale, both
    colours and the noise are drawn from raw PCG64 words, which numpy promises never to change, and
    all arithmetic is exact (sqrt is, once floored): the same bytes everywhere.
    """
    n = 2500
    source = np.random.PCG64(0)

    def draw(*shape: int) -> np.ndarray:
        words = source.random_raw(int(np.prod(shape))) >> np.uint64(32)
        return words.astype(np.int64).reshape(shape)

    y = np.arange(n) % 10
    place, half = draw(n, 2, 1, 1) % 16 + 8, draw(n, 1, 1) % 4 + 3
    back = draw(n, 3, 1, 1) % 256
    front = (back + 64 + draw(n, 3, 1, 1) % 128) % 256  # differs by 64 or more in each channel
    noise = draw(n, 3, 32, 32) % 65 - 32
    mask = np.empty((n, 32, 32), bool)
    for label in range(10):
        one = y == label
        dy, dx = np.arange(32)[:, None] - place[one, 0], np.arange(32) - place[one, 1]
        mask[one] = _shape(label, dy, dx, half[one])
    images = np.where(mask[:, None], front, back) + noise
    x = torch.from_numpy(images.clip(0, 255).astype(np.uint8))
    labels = torch.from_numpy(y.astype(np.int64))
    return x[:2000], labels[:2000], x[2000:], labels[2000:]


def _shape(label: int, dy: np.ndarray, dx: np.ndarray, half: np.ndarray) -> np.ndarray:
    """The pixels of a class's shape. dy (n,32,1), dx (n,1,32): from its centre; half (n,1,1)."""
    slanted = half * 3 // 2  # a diagonal step is longer, so that scale does not tell the class
    waves = {
        0: lambda: dy // half + 0 * dx,  # stripes: level, upright, slanted
        1: lambda: dx // half + 0 * dy,
        2: lambda: (dx + dy) // slanted,
        3: lambda: (abs(dx) + dy) // slanted,  # chevrons
        4: lambda: dx // half + dy // half,  # a chequerboard, upright and on its corner
        5: lambda: (dx + dy) // slanted + (dx - dy) // slanted,
        6: lambda: np.sqrt(dx**2 + dy**2).astype(np.int64) // half,  # rings: round, square, slanted
        7: lambda: np.maximum(abs(dx), abs(dy)) // half,
        8: lambda: (abs(dx) + abs(dy)) // slanted,
        9: lambda: (dx // half) * (dy // half),  # a lattice of dots
    }
    return waves[label]() % 2 == 1


# --- what the training loop asks of images --------------------------------------------------------


def to_float(images: Tensor) -> Tensor:
    """Map grey levels 0..255 to k / 255, the same float32 on every device.

    Args:    images: uint8, any shape.
    Returns: float32 in [0, 1], same shape and device.
    Raises:  TypeError: another dtype.
    """
    _require_uint8(images)
    check_values("images", images)
    # By a tensor: on CUDA a division by a Python number is a product with its rounded inverse.
    return images.float() / torch.full((), 255.0, device=images.device)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order in which an epoch visits n images, from (seed, epoch) alone.

    Args:    n: how many images, at least 1. seed, epoch: at least 0.
    Returns: int64 (n,) on the CPU, a permutation of 0..n-1, the same whatever device trains.
    Raises:  TypeError, ValueError: numbers that are none of this.
    """
    n = whole("n", n, 0, MOST)
    seed, epoch = whole("seed", seed, 0), whole("epoch", epoch, 0)
    # A hash, because with a sum such as seed + epoch two runs would share most of their orders.
    key = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "big"))
    return torch.randperm(n, generator=generator)


def crop_and_flip(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Pad with zeros, crop each image back to its size at random, and flip half of them.

    Args:    images: uint8 (N,C,H,W). generator: on the images' device. padding: pixels each side.
    Returns: uint8 (N,C,H,W): each image at one of (2 padding + 1)**2 places, mirrored or not.
    Raises:  TypeError: another dtype. ValueError: not 4 dimensions, a negative padding, or a
             generator on another device.
    """
    _require_uint8(images)
    if images.dim() != 4:
        raise ValueError(f"images have shape {tuple(images.shape)}: give (N,C,H,W)")
    padding = whole("padding", padding, 0, 4_096)
    of_kind("generator", generator, torch.Generator)
    # The generator's device may lack the index ("cuda"); a tensor put there has it ("cuda:0").
    if torch.empty(0, device=generator.device).device != images.device:
        raise ValueError(
            f"the generator is on {generator.device}, the images on {images.device}: "
            f"make it with torch.Generator({str(images.device)!r})"
        )
    check_values("images", images)
    n, channels, height, width = images.shape
    device = images.device
    corner = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=device)
    flip = torch.randint(2, (n, 1), generator=generator, device=device).bool()
    rows = corner[0] + torch.arange(height, device=device)  # (N,H)
    columns = corner[1] + torch.arange(width, device=device)  # (N,W)
    columns = torch.where(flip, columns.flip(1), columns)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _require_uint8(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else shown(images)
        raise TypeError(f"images are {got}: give torch.uint8, grey levels 0..255")

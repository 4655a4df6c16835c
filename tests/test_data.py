from __future__ import annotations

import gzip
import hashlib
import http.server
import itertools
import os
import pickle
import pickletools
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from reproduce import data
from reproduce.names import DATASETS

real = pytest.mark.skipif(
    "REPRODUCE_DATA" not in os.environ,
    reason="REPRODUCE_DATA is not set: the real MNIST/CIFAR-10 are not at hand",
)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

MNIST_FILES = [
    f"MNIST/raw/{part}-{kind}-ubyte"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test may reach a server, so that a root with a file missing fails at once."""

    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def sha256(*tensors: torch.Tensor) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()


def sha256_of(dataset: data.Dataset) -> str:
    return sha256(dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test)


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# --- names, roots, the Dataset --------------------------------------------------------------------


def test_an_unknown_name_is_answered_with_every_known_one():
    with pytest.raises(ValueError, match="'imagenet'") as error:
        data.load("imagenet")
    assert all(name in one_line(error) for name in DATASETS)


def test_root_is_the_environment_variable_or_else_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".cache" / "reproduce"
    for value, expected in {"/a/b": Path("/a/b"), "~/c": tmp_path / "c", "": cache}.items():
        monkeypatch.setenv("REPRODUCE_DATA", value)
        assert data.root() == expected
    monkeypatch.delenv("REPRODUCE_DATA")
    assert data.root() == cache


@pytest.mark.parametrize("name", ["digits", "patterns"])
def test_the_small_sets_need_no_root(name, monkeypatch, tmp_path):
    monkeypatch.setenv("REPRODUCE_DATA", str(tmp_path / "absent"))
    assert data.load(name) is data.load(name, tmp_path / "elsewhere")
    assert list(tmp_path.iterdir()) == []


SHAPES = {
    "mnist": (60000, 10000, 1, 28),
    "cifar10": (50000, 10000, 3, 32),
    "digits": (1397, 400, 1, 28),
    "patterns": (2000, 500, 3, 32),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=real if name in ("mnist", "cifar10") else ()) for name in DATASETS],
)
def test_every_set_keeps_the_common_form_and_names_its_own_bytes(name):
    dataset = data.load(name)
    n_train, n_test, channels, size = SHAPES[name]
    assert dataset.x_train.shape == (n_train, channels, size, size)
    assert dataset.x_test.shape == (n_test, channels, size, size)
    assert dataset.y_train.shape == (n_train,)
    assert dataset.y_test.shape == (n_test,)
    assert dataset.x_train.dtype == dataset.x_test.dtype == torch.uint8
    assert dataset.y_train.dtype == dataset.y_test.dtype == torch.int64
    assert set(dataset.y_train.tolist()) == set(dataset.y_test.tolist()) == set(range(10))
    assert dataset.name == name
    assert dataset.sha256 == sha256_of(dataset)
    assert data.load(name) is dataset


# --- MNIST and CIFAR-10: the files ----------------------------------------------------------------


@real
def test_mnist_is_what_a_parse_by_hand_of_its_bytes_gives():
    def idx(file):
        raw = (data.root() / file).read_bytes()
        assert raw[:3] == b"\0\0\x08"  # unsigned bytes
        sizes = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
        return np.frombuffer(raw[4 + 4 * raw[3] :], np.uint8).reshape(sizes)

    dataset = data.load("mnist")
    loaded = (dataset.x_train[:, 0], dataset.y_train, dataset.x_test[:, 0], dataset.y_test)
    for tensor, file in zip(loaded, MNIST_FILES, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), idx(file))
    assert dataset.y_test.bincount()[:3].tolist() == [980, 1135, 1032]  # as published


@real
def test_cifar10_is_what_lies_in_its_batches_without_unpickling():
    dataset = data.load("cifar10")
    parts = [
        *zip(dataset.x_train.split(10000), dataset.y_train.split(10000), strict=True),
        (dataset.x_test, dataset.y_test),
    ]
    for i, (x, y) in enumerate(parts):
        file = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        raw = (data.root() / "cifar-10-batches-py" / file).read_bytes()
        start = raw.index(x[0].numpy().tobytes())
        assert raw[start : start + x.numel()] == x.numpy().tobytes()
        words = itertools.takewhile(lambda op: op[1] != "data", pickletools.genops(raw))
        labels = [argument for op, argument, _ in words if op.name == "BININT1"]
        assert labels == y.tolist()
    assert dataset.y_train.bincount().tolist() == [5000] * 10
    assert dataset.y_test.bincount().tolist() == [1000] * 10


@real
def test_cifar10_images_and_labels_are_those_that_torchvision_hands_out():
    dataset = data.load("cifar10")
    second = torchvision.datasets.CIFAR10(data.root(), train=False)
    for i in range(0, 10000, 97):
        image, label = second[i]
        np.testing.assert_array_equal(dataset.x_test[i].permute(1, 2, 0).numpy(), np.asarray(image))
        assert dataset.y_test[i] == label


@real
def test_the_age_of_the_cifar10_pickles_is_no_warning_to_the_reader(tmp_path, monkeypatch):
    linked_copy(tmp_path, "cifar-10-batches-py", damaged="none")
    load = pickle.load

    def load_as_numpy_2_4_0_does(*args, **kwargs):
        warnings.warn("align=0", np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return load(*args, **kwargs)

    monkeypatch.setattr(pickle, "load", load_as_numpy_2_4_0_does)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.load("cifar10", tmp_path).sha256 == data.load("cifar10").sha256


def linked_copy(tmp_path: Path, folder: str, damaged: str) -> Path:
    """The files of `folder` under tmp_path: links, but the damaged one a copy to write into."""
    for source in (data.root() / folder).iterdir():
        target = tmp_path / folder / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.name == damaged:
            shutil.copyfile(source, target)
        else:
            target.symlink_to(source.absolute())
    return tmp_path / folder / damaged


def flip_a_bit(file: Path) -> None:
    with open(file, "r+b") as content:
        content.seek(-1, os.SEEK_END)
        last = content.read()[0]
        content.seek(-1, os.SEEK_END)
        content.write(bytes([last ^ 1]))


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


@real
@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
@pytest.mark.parametrize("path", [*MNIST_FILES, "cifar-10-batches-py/batches.meta"])
def test_a_damaged_file_is_named_with_both_sums_and_the_remedy(path, damage, tmp_path):
    folder, file = path.rsplit("/", 1)
    broken = linked_copy(tmp_path, folder, file)
    expected = hashlib.md5(broken.read_bytes()).hexdigest()
    damage(broken)
    with pytest.raises(OSError, match="is damaged") as error:
        data.load("mnist" if "MNIST" in path else "cifar10", tmp_path)
    message = one_line(error)
    for part in (str(broken), hashlib.md5(broken.read_bytes()).hexdigest(), expected, "delete it"):
        assert part in message


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (str(self.marker),))


@real
@pytest.mark.parametrize("file", ["batches.meta", "data_batch_5", "test_batch"])
def test_a_foreign_pickle_in_cifar10_is_refused_before_it_can_run(file, tmp_path):
    marker = tmp_path / "ran"
    batch = linked_copy(tmp_path, "cifar-10-batches-py", file)
    batch.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(OSError, match=f"{file} is damaged"):
        data.load("cifar10", tmp_path)
    assert not marker.exists()


@real
def test_mnist_reads_the_checked_raw_files_and_no_processed_ones(tmp_path):
    linked_copy(tmp_path, "MNIST/raw", damaged="none")
    processed = tmp_path / "MNIST" / "processed"
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1)), processed / file)
    assert data.load("mnist", tmp_path).sha256 == data.load("mnist").sha256


# --- MNIST and CIFAR-10: the download -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"), [("mnist", MNIST_FILES[0]), ("cifar10", "cifar-10-batches-py/batches.meta")]
)
def test_absent_data_without_network_is_one_line_that_says_what_belongs_where(name, file, tmp_path):
    folder = tmp_path / "new" / "deep"
    with pytest.raises(FileNotFoundError, match="no route to host") as error:
        data.load(name, folder)
    assert error.value.__suppress_context__
    assert error.value.__cause__ is None
    message = one_line(error)
    for part in (str(folder), "REPRODUCE_DATA", *file.split("/")):
        assert part in message
    assert list(folder.iterdir()) == []


def test_the_way_torchvision_unpacks_is_no_warning_to_the_reader(tmp_path, monkeypatch):
    def warn_as_tarfile_does(*_args, **_kwargs):
        warnings.warn("tarfile's default filter", DeprecationWarning, stacklevel=2)
        raise OSError("unpacked, so far")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", warn_as_tarfile_does)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileNotFoundError, match="unpacked, so far"):
            data.load("cifar10", tmp_path)


def test_a_root_may_be_relative_or_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for given, meant in {"~/a": tmp_path / "home" / "a", "b": tmp_path / "b"}.items():
        with pytest.raises(FileNotFoundError, match=f"mnist is not in {meant} "):
            data.load("mnist", given)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match="is not a folder") as error:
        data.load("mnist", file)
    assert str(file) in one_line(error)
    with pytest.raises(FileNotFoundError, match="Not a directory") as error:
        data.load("mnist", file / "below")
    assert str(file / "below") in one_line(error)


@pytest.mark.parametrize("denied", [os.R_OK, os.X_OK])
def test_a_root_that_cannot_be_read_is_refused(denied, tmp_path, monkeypatch):
    # The permission is denied by hand, because the superuser may read what chmod forbids.
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode & denied))
    with pytest.raises(PermissionError, match="cannot be read") as error:
        data.load("mnist", tmp_path)
    assert str(tmp_path) in one_line(error)


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves the gzipped files of the class attribute `files`, `share` of each one's bytes."""

    files: dict[str, bytes]
    share = 1.0

    def do_GET(self):
        content = self.files[self.path.lstrip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: int(len(content) * self.share)])

    def log_message(self, *_args):
        pass


@pytest.fixture
def mirror(monkeypatch):
    """A local server in place of MNIST's, and the sums of what it serves."""
    monkeypatch.undo()  # the ban on the network
    files = {
        f"{Path(file).name}.gz": gzip.compress((data.root() / file).read_bytes(), 0)
        for file in MNIST_FILES
    }
    handler = type("Handler", (Mirror,), {"files": files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mnist = torchvision.datasets.MNIST
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    monkeypatch.setattr(mnist, "resources", sums)
    monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@real
def test_a_download_leaves_the_checked_files_and_nothing_else(mirror, tmp_path):
    assert data.load("mnist", tmp_path).sha256 == data.load("mnist").sha256
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(MNIST_FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


@real
def test_a_download_fills_in_what_is_missing_and_keeps_the_rest(mirror, tmp_path):
    linked_copy(tmp_path, "MNIST/raw", damaged="train-labels-idx1-ubyte").unlink()
    assert data.load("mnist", tmp_path).sha256 == data.load("mnist").sha256
    links = [path.name for path in (tmp_path / "MNIST/raw").iterdir() if path.is_symlink()]
    assert len(links) == 3


@real
def test_a_download_cut_short_leaves_no_file(mirror, tmp_path):
    mirror.share = 0.5
    with pytest.raises(FileNotFoundError, match="could not be downloaded") as error:
        data.load("mnist", tmp_path)
    one_line(error)
    assert list(tmp_path.iterdir()) == []


@real
def test_a_server_that_does_not_speak_http_is_one_line_too(mirror, tmp_path):
    mirror.do_GET = lambda self: self.wfile.write(b"nonsense\r\n\r\n")
    with pytest.raises(FileNotFoundError, match="nonsense") as error:
        data.load("mnist", tmp_path)
    one_line(error)


@real
def test_a_wrong_download_is_not_trusted(mirror, tmp_path, monkeypatch):
    wrong = gzip.compress(b"not the labels")
    mirror.files["t10k-labels-idx1-ubyte.gz"] = wrong
    sums = dict(torchvision.datasets.MNIST.resources)
    sums["t10k-labels-idx1-ubyte.gz"] = hashlib.md5(wrong).hexdigest()
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", list(sums.items()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "__init__", download_only)
    with pytest.raises(OSError, match="t10k-labels-idx1-ubyte is damaged"):
        data.load("mnist", tmp_path)


def download_only(self, root, download):
    """MNIST's constructor without the parse at its end, which the wrong file would break."""
    assert download
    self.root = root
    self.download()


def test_a_silent_server_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.undo()
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [url])
        monkeypatch.setattr(data, "_DOWNLOAD_TIMEOUT_S", 0.1)
        start = time.monotonic()
        with pytest.raises(FileNotFoundError, match="timed out"):
            data.load("mnist", tmp_path)
    assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() == before


# --- the sets without a download ------------------------------------------------------------------


def test_digits_and_patterns_are_the_same_bytes_everywhere():
    sums = {name: sha256_of(data.load(name)) for name in ("digits", "patterns")}
    assert sums == {
        "digits": "e18dfcef1f4fc5e54988c14f45583d0e661c825a480e97452e01a86d0c80edff",
        "patterns": "ab7c7783522b9769de1878c3d1c7e6de2ec89c99ed2656e4493088e88992da93",
    }


def test_digits_are_those_of_scikit_learn_enlarged_framed_and_shuffled():
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    images = torch.cat([dataset.x_train, dataset.x_test])[:, 0].numpy()
    labels = torch.cat([dataset.y_train, dataset.y_test]).numpy()
    frame = images.copy()
    frame[:, 2:26, 2:26] = 0
    assert not frame.any()
    small = images[:, 2:26:3, 2:26:3]
    np.testing.assert_array_equal(np.kron(small, np.ones((3, 3))), images[:, 2:26, 2:26])
    levels = np.ceil(small / 255 * 16)  # undoes v * 255 // 16
    original = load_digits()
    found = sorted((*image.ravel(), label) for image, label in zip(levels, labels, strict=True))
    rows = zip(original.images, original.target, strict=True)
    assert found == sorted((*image.ravel(), label) for image, label in rows)
    assert not np.array_equal(labels, original.target)
    assert dataset.y_test.bincount(minlength=10).min() >= 25


def test_patterns_are_balanced_and_no_image_comes_twice():
    dataset = data.load("patterns")
    assert dataset.y_train.bincount().tolist() == [200] * 10
    assert dataset.y_test.bincount().tolist() == [50] * 10
    images = torch.cat([dataset.x_train, dataset.x_test])
    assert len({image.numpy().tobytes() for image in images}) == 2500


def test_patterns_are_learnt_by_a_small_network_from_crops_and_mirrors_but_not_by_a_linear_map():
    dataset = data.load("patterns")
    x, x_test = data.to_float(dataset.x_train), data.to_float(dataset.x_test)

    flat, flat_test = (torch.nn.functional.pad(t.flatten(1), (0, 1), value=1) for t in (x, x_test))
    ridge = flat @ flat.T + 100 * torch.eye(len(flat))
    targets = torch.nn.functional.one_hot(dataset.y_train).float()
    linear = flat_test @ (flat.T @ torch.linalg.solve(ridge, targets))
    assert (linear.argmax(1) == dataset.y_test).float().mean() < 0.4

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = small_network()
    generator = torch.Generator().manual_seed(0)
    epochs, batch = 6, 50
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, epochs * len(x) // batch)
    for epoch in range(epochs):
        for rows in data.epoch_order(len(x), 0, epoch).split(batch):
            images = data.to_float(data.crop_and_flip(dataset.x_train[rows], generator))
            loss = torch.nn.functional.cross_entropy(network(images), dataset.y_train[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        for images in (x_test, x_test.flip(3)):
            assert (network(images).argmax(1) == dataset.y_test).float().mean() > 0.93


def small_network() -> torch.nn.Sequential:
    def stage(inputs: int, outputs: int) -> list[torch.nn.Module]:
        convolution = torch.nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        return [convolution, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU()]

    head = [torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(256, 10)]
    return torch.nn.Sequential(*stage(3, 16), *stage(16, 32), *stage(32, 64), *head)


# --- to_float, epoch_order, crop_and_flip ---------------------------------------------------------


def test_to_float_divides_every_grey_level_by_255_as_ieee_does():
    levels = torch.arange(256, dtype=torch.uint8).reshape(2, 2, 8, 8)
    expected = np.arange(256, dtype=np.float32).reshape(2, 2, 8, 8) / np.float32(255)
    floats = data.to_float(levels)
    assert floats.dtype == torch.float32
    np.testing.assert_array_equal(floats.numpy(), expected)


@cuda
def test_to_float_gives_the_same_bits_on_cuda():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.to_float(levels.cuda()).cpu(), data.to_float(levels))


def test_only_uint8_images_are_taken(generator):
    for images in (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.int64)):
        for call in (data.to_float, lambda x: data.crop_and_flip(x, generator)):
            with pytest.raises(TypeError, match=f"{images.dtype}: give torch.uint8") as error:
                call(images)
            one_line(error)


def test_epoch_order_is_a_permutation_and_differs_in_each_epoch_of_each_seed():
    orders = set()
    for seed, epoch in itertools.product(range(12), range(12)):
        order = data.epoch_order(40, seed, epoch)
        assert order.dtype == torch.int64
        assert order.device.type == "cpu"
        assert sorted(order.tolist()) == list(range(40))
        orders.add(tuple(order.tolist()))
    assert len(orders) == 144


def test_epoch_order_is_a_function_of_seed_and_epoch_alone():
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = data.epoch_order(1000, 3, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(data.epoch_order(1000, 3, 4), first)
    # From one process to the next too; if this changes, a resumed run no longer repeats itself.
    assert data.epoch_order(10, 3, 4).tolist() == [5, 3, 2, 8, 9, 7, 0, 1, 6, 4]


def test_epoch_order_puts_an_image_anywhere_equally_often():
    n, epochs = 10, 2000
    places = np.array([data.epoch_order(n, 0, epoch).tolist() for epoch in range(epochs)])
    counts = np.stack([np.bincount(places[:, i], minlength=n) for i in range(n)])
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    assert chi2 < 150  # 81 degrees of freedom: mean 81, deviation 12.7


def matches(images: torch.Tensor, output: torch.Tensor, padding: int) -> torch.Tensor:
    """For each image, which of its padded crops (top, left, mirrored) the output is: bool."""
    n, channels, height, width = images.shape
    padded = torch.zeros(n, channels, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
    padded[:, :, padding : padding + height, padding : padding + width] = images
    side = 2 * padding + 1
    found = torch.zeros(n, side, side, 2, dtype=torch.bool)
    for top, left in itertools.product(range(side), range(side)):
        crop = padded[:, :, top : top + height, left : left + width]
        found[:, top, left, 0] = (crop == output).flatten(1).all(1)
        found[:, top, left, 1] = (crop.flip(3) == output).flatten(1).all(1)
    return found


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_crop_and_flip_gives_each_crop_and_its_mirror_image_equally_often(padding, generator):
    crops = 2 * (2 * padding + 1) ** 2
    images = torch.randint(1, 256, (30 * crops, 2, 9, 7), generator=generator).to(torch.uint8)
    before = images.clone()
    output = data.crop_and_flip(images, generator, padding)
    assert output.shape == images.shape
    assert output.dtype == torch.uint8
    assert torch.equal(images, before)
    found = matches(images, output, padding)
    assert torch.equal(found.flatten(1).sum(1), torch.ones(len(images), dtype=torch.int64))
    counts = found.sum(0).flatten().double()
    freedom = crops - 1
    assert ((counts - 30) ** 2 / 30).sum() < freedom + 5 * (2 * freedom) ** 0.5


def test_crop_and_flip_treats_neighbours_in_a_batch_apart(generator):
    images = torch.randint(1, 256, (2000, 1, 8, 8), generator=generator).to(torch.uint8)
    found = matches(images, data.crop_and_flip(images, generator), padding=4)
    top, left, mirrored = found.nonzero()[:, 1:].double().unbind(1)
    pairs = [(top, left), (top, mirrored), (left, mirrored)]
    pairs += [(draws[1:], draws[:-1]) for draws in (top, left, mirrored)]
    for a, b in pairs:
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.1  # 4.5 deviations


def test_crop_and_flip_pads_by_four_unless_told():
    images = torch.full((3, 1, 8, 8), 7, dtype=torch.uint8)
    default, four, three = (
        data.crop_and_flip(images, torch.Generator().manual_seed(5), *padding)
        for padding in ((), (4,), (3,))
    )
    assert torch.equal(default, four)
    assert not torch.equal(default, three)


def test_crop_and_flip_is_a_function_of_the_images_and_the_generator():
    images = data.load("patterns").x_train[:64]
    torch.manual_seed(0)
    first = data.crop_and_flip(images, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(7)
    torch.manual_seed(1)
    assert torch.equal(data.crop_and_flip(images, generator), first)
    assert not torch.equal(data.crop_and_flip(images, generator), first)


def test_crop_and_flip_takes_an_empty_batch_and_refuses_what_is_not_a_batch(generator):
    empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
    assert data.crop_and_flip(empty, generator).shape == empty.shape
    with pytest.raises(ValueError, match=r"\(3, 8, 8\): give \(N,C,H,W\)"):
        data.crop_and_flip(torch.zeros(3, 8, 8, dtype=torch.uint8), generator)
    with pytest.raises(ValueError, match="padding is -1"):
        data.crop_and_flip(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), generator, -1)


def test_crop_and_flip_refuses_a_generator_on_another_device(generator):
    images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8, device="meta")
    with pytest.raises(ValueError, match="on cpu, the images on meta") as error:
        data.crop_and_flip(images, generator)
    one_line(error)


@cuda
def test_crop_and_flip_stays_on_cuda():
    images = torch.randint(1, 256, (500, 3, 8, 8), dtype=torch.uint8)
    output = data.crop_and_flip(images.cuda(), torch.Generator("cuda").manual_seed(0))
    assert output.device.type == "cuda"
    assert matches(images, output.cpu(), padding=4).flatten(1).sum(1).tolist() == [1] * 500

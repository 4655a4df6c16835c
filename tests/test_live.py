"""The live page's JavaScript against the package: the same numbers, the same images broken."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from reproduce import dither, models
from reproduce.attacks import AdaptivePGD, Square, bpda
from reproduce.pipeline import DoubleQuantizer
from reproduce.quantizers import activation, filter_radius, linear_quantize

ROOT = Path(__file__).resolve().parent.parent
RULES = (("zero", 1.0), ("straight_through", 1.0), ("tanh", 1.0), ("sigmoid", 5.0))


def module():
    """notebooks/live.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("live", ROOT / "notebooks" / "live.py")
    live = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(live)
    return live


live = module()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    live.export(folder)
    return folder / "_static" / "live"


@pytest.fixture(scope="module")
def node(site):
    """node(source of a function body in JavaScript, what it is given): what it returns."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed")

    def run(source: str, given=None):
        command = ["node", ROOT / "tests" / "live.js", site]
        given = json.dumps({"run": source, "given": given})
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def shown(kind: str) -> SimpleNamespace:
    """The images that the page offers: x (N, C, H, W) float32, y (N,)."""
    pattern, name = live.DIGITS if kind == "digits" else live.PICTURES
    with np.load(live.one(pattern)) as arrays:
        x = torch.from_numpy(arrays[name]).float() / 255
        return SimpleNamespace(x=x, y=torch.from_numpy(arrays["labels"]))


def trained(name: str) -> torch.nn.Module:
    if name in live.LENETS:
        kind, _, bits = name.partition("-")
        model = models.lenet(activation(kind, int(bits[0]) if bits else None))
    else:
        model = models.resnet20()
    model.load_state_dict(load_file(live.one(f"{live.NETWORKS[name]}-*") / "weights.safetensors"))
    return model.eval()


class Stream:
    """torch.rand and torch.rand_like, from the numbers that the page draws."""

    def __init__(self, numbers, monkeypatch) -> None:
        self.numbers, self.used = torch.tensor(numbers), 0
        monkeypatch.setattr(torch, "rand", lambda shape: self.draw(tuple(shape)))
        monkeypatch.setattr(torch, "rand_like", lambda x: self.draw(x.shape))

    def draw(self, shape) -> torch.Tensor:
        count = int(np.prod(shape))
        drawn = self.numbers[self.used : self.used + count]
        assert len(drawn) == count
        self.used += count
        return drawn.view(shape)


STREAM = "const r = Live.random(given.seed); return Array.from({length: given.n}, r);"


# --- Networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", live.NETWORKS)
def test_logits_are_those_of_pytorch_to_one_in_ten_thousand(node, name):
    kind = "digits" if name in live.LENETS else "pictures"
    images, count = shown(kind), 10 if name in live.LENETS else 3
    source = """const net = network(given.name);
        return Array.from({length: given.count},
                          (_, n) => net.logits(Live.toFloat(example(given.kind, n))));"""
    found = node(source, {"name": name, "kind": kind, "count": count})
    model = trained(name)
    with torch.no_grad():  # one at a time, as the page asks
        wanted = torch.cat([model(x[None]) for x in images.x[:count]])
    torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["relu", "fixed-1bit", "fixed-2bit", "dynamic-3bit", "8bit"])
def test_gradients_and_their_zeros_are_those_of_pytorch_under_every_rule(node, name):
    kind = "digits" if name in live.LENETS else "pictures"
    images, model = shown(kind), trained(name)
    rules = RULES if name.partition("-")[0] in ("fixed", "dynamic") else RULES[:1]
    source = """const net = network(given.name), x = Live.toFloat(example(given.kind, 3));
        return given.rules.map(([rule, temperature]) => {
          net.setRule(rule, temperature);
          return net.gradient(net.logits(x), given.label);
        });"""
    label = images.y[3].item()
    given = {"name": name, "kind": kind, "rules": rules, "label": label}
    for (rule, temperature), found in zip(rules, node(source, given), strict=True):
        x = images.x[3:4].clone().requires_grad_(True)
        with bpda(model, rule, temperature):
            F.cross_entropy(model(x), torch.tensor([label])).backward()
        wanted, found = x.grad.flatten(), torch.tensor(found)
        assert (found - wanted).abs().max() <= 2e-3 * wanted.abs().max()
        assert ((found == 0) == (wanted == 0)).all()
        # A gradient of a millionth of the largest may have another sign: a sum in another order.
        large = wanted.abs() > 2e-3 * wanted.abs().max()
        assert (found.sign() == wanted.sign())[large].all()


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_a_quantiser_and_its_slopes_are_the_packages(node, kind, bits):
    layer = activation(kind, bits)()
    # Small values, so that the maximum of Eq. 2 is not 1; and both sides of all steps.
    x = torch.linspace(-0.9, 0.8, 173)
    thresholds = layer.thresholds.tolist() if kind == "dynamic" else []
    source = """const take = () => Float32Array.from(given.thresholds);
        const layer = new Live.quantizers[given.kind]({bits: given.bits}, take);
        const x = {data: Float32Array.from(given.x), shape: [given.x.length]};
        const ones = {data: new Float32Array(given.x.length).fill(1), shape: x.shape};
        return given.rules.map(([rule, temperature]) => {
          layer.setRule(rule, temperature);
          return [layer.forward(x).data, layer.backward(ones).data];
        });"""
    given = {"kind": kind, "bits": bits, "x": x.tolist(), "thresholds": thresholds}
    found = node(source, given | {"rules": RULES})
    for (rule, temperature), (values, slopes) in zip(RULES, found, strict=True):
        layer.set_backward(rule, temperature)
        leaf = x.clone().requires_grad_(True)
        y = layer(leaf)
        y.sum().backward()
        torch.testing.assert_close(torch.tensor(values).float(), y.detach(), atol=1e-6, rtol=0)
        torch.testing.assert_close(torch.tensor(slopes).float(), leaf.grad, atol=1e-5, rtol=1e-5)


# --- Attacks on digits ----------------------------------------------------------------------------

ATTACK = """const net = network(given.name), {labels} = Live.examples.digits;
    net.setRule(given.rule, given.temperature ?? 1);
    return given.digits.map((n) => {
      const random = Live.random(given.seed ?? 0);
      const image = Live.toFloat(example("digits", n));
      const options = {eps: 76.5, step: 2.55, steps: given.steps, queries: given.queries, random};
      let steps = -1, last;
      for (last of Live[given.attack](net, image, labels[n], options)) steps++;
      const broken = Live.argmax(last.logits) !== labels[n];
      const zero = last.gradient ? Live.zeroShare(last.gradient) : null;
      return {broken, steps, zero, x: last.x};
    });"""


@pytest.mark.parametrize(
    ("name", "rule", "temperature"),
    [
        ("fixed-1bit", "sigmoid", 5.0),
        ("fixed-1bit", "straight_through", None),
        ("dynamic-2bit", "straight_through", None),
    ],
)
def test_the_same_digits_are_broken_by_pgd_as_in_python(node, monkeypatch, name, rule, temperature):
    digits, chosen = shown("digits"), [0, 1, 2, 5, 7, 8]
    given = {"name": name, "rule": rule, "temperature": temperature, "digits": chosen}
    found = node(ATTACK, given | {"attack": "pgd", "steps": 40})
    numbers = node(STREAM, {"seed": 0, "n": 784})
    attack = AdaptivePGD(
        eps_255=76.5, step_255=2.55, steps=40, backward=rule, temperature=temperature
    )
    model = trained(name)
    for n, page in zip(chosen, found, strict=True):
        x, y = digits.x[n : n + 1], digits.y[n : n + 1]
        Stream(numbers, monkeypatch)
        adversarial = attack.attack(model)(x, y)
        with torch.no_grad():
            assert (model(adversarial).argmax(1) != y).item() == page["broken"]
            # What the page found breaks Python's network, too, within the ball.
            image = torch.tensor(page["x"]).view(1, 1, 28, 28)
            assert (model(image).argmax(1) != y).item() == page["broken"]
        assert (image - x).abs().max() <= 0.3 + 1e-6 and 0 <= image.min() and image.max() <= 1


def test_square_finds_what_torchattacks_finds_from_the_same_draws(node, monkeypatch):
    digits, chosen = shown("digits"), [2, 4, 5, 8]
    given = {"name": "fixed-1bit", "rule": "zero", "digits": chosen, "queries": 300}
    found = node(ATTACK, given | {"attack": "square"})
    numbers = node(STREAM, {"seed": 0, "n": 28 + 3 * 300})
    model = trained("fixed-1bit")
    for n, page in zip(chosen, found, strict=True):
        Stream(numbers, monkeypatch)
        x, y = digits.x[n : n + 1], digits.y[n : n + 1]
        adversarial = Square(eps_255=76.5, queries=300).attack(model)(x, y)
        image = torch.tensor(page["x"]).view(1, 1, 28, 28)
        torch.testing.assert_close(image, adversarial, atol=1e-6, rtol=0)
        assert page["broken"] and 0 < page["steps"] < 300


def test_the_page_says_of_the_seven_what_happens_to_it(node):
    first = {"name": "fixed-1bit", "digits": [0], "steps": 40, "queries": 5000}
    (own,) = node(ATTACK, first | {"attack": "pgd", "rule": "straight_through"})
    (sigmoid,) = node(ATTACK, first | {"attack": "pgd", "rule": "sigmoid", "temperature": 5})
    (zero,) = node(ATTACK, first | {"attack": "pgd", "rule": "zero"})
    (square,) = node(ATTACK, first | {"attack": "square", "rule": "zero"})
    (relu,) = node(ATTACK, first | {"attack": "pgd", "rule": "zero", "name": "relu"})
    assert not own["broken"] and sigmoid["broken"] and square["broken"] and not relu["broken"]
    assert zero["zero"] == 1 and not zero["broken"]


# --- Double quantization --------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 19), (2, 1, 1)])
def test_halftones_are_the_packages_byte_for_byte(node, shape):
    names = {
        "floyd_steinberg": dither.floyd_steinberg,
        "bayer": dither.bayer,
        "jarvis": dither.jarvis_judice_ninke,
    }
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    source = """const image = Uint8Array.from(given.image);
        return given.names.map((name) => [1, 2, 3, 4, 5, 6, 7].map(
          (bits) => Live.halftones[name](image, bits, given.shape)));"""
    given = {"image": image.flatten().tolist(), "shape": shape, "names": list(names)}
    for function, found in zip(names.values(), node(source, given), strict=True):
        for bits, values in enumerate(found, 1):
            wanted = function(torch.from_numpy(image)[None], bits)
            assert np.array_equal(values, wanted.flatten()), (function.__name__, bits)


@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_the_filter_is_the_packages_and_removes_all_inside_its_radius(node, rounding):
    x = torch.cat([torch.arange(511) / 510, torch.rand(500, generator=torch.manual_seed(0))])
    source = """return [1, 2, 3, 4, 5, 6, 7, 8].map((bits) => {
          const limit = Live.fileRadius(bits, given.rounding);
          const filter = (x) => Live.linearQuantize(x, bits, given.rounding);
          const greys = Float32Array.from({length: 256}, (_, n) => n / 255);
          // What a sender of these bits can send: the levels, as whole grey values.
          const sent = Live.toFloat(Live.toBytes(Live.linearQuantize(greys, bits, "floor")));
          const kept = (by) => {
            const {low, high} = Live.ball(sent, by);
            const same = (a, b) => filter(a).every((v, n) => v === filter(b)[n]);
            return same(low, sent) && same(high, sent);
          };
          return {
            values: filter(Float32Array.from(given.x)),
            radius: Live.filterRadius(bits, given.rounding),
            inside: Array.from({length: limit + 1}, (_, by) => kept(by)),
            outside: kept(limit + 1),
          };
        });"""
    found = node(source, {"x": x.tolist(), "rounding": rounding})
    for bits, page in enumerate(found, 1):
        wanted = linear_quantize(x, bits, rounding)
        assert page["values"] == wanted.tolist()
        assert page["radius"] == filter_radius(bits, rounding)
        assert all(page["inside"]) and not page["outside"], bits


DOUBLE = """const net = network("2bit-dithered"), {labels} = Live.examples.pictures;
    return given.map(({picture, ...settings}) => {
      let steps = -1, last;
      const image = example("pictures", picture);
      const all = {bits: 2, halftone: "floyd_steinberg", rounding: "floor", seed: 0, ...settings};
      for (last of Live.doubleQuantization(net, image, labels[picture], all)) steps++;
      return {...last, steps, attackedBytes: Live.toBytes(last.attacked),
              receivedBytes: Live.toBytes(last.received), sentBytes: Live.toBytes(last.sent)};
    });"""


def test_noise_after_dithering_is_that_of_the_record_and_none_of_it_arrives(node):
    picture = 3
    (page,) = node(DOUBLE, [{"picture": picture, "noise": "after", "eps": 8}])
    folder = live.CIFAR10.format("2bit-dithered")
    with np.load(live.one(f"{folder}-*/stages-[!b]*.npz")) as record:
        stages = {n: record[f"example/{n}"][picture] for n in ("sent", "attacked", "received")}
    assert page["sentBytes"] == stages["sent"].flatten().tolist()
    assert page["receivedBytes"] == stages["received"].flatten().tolist()
    assert page["changed"]["received"] == 0
    # The gradient's sign at a few values hangs on the order of a sum.
    same = np.mean(np.array(page["attackedBytes"]) == stages["attacked"].flatten())
    assert same > 0.98


def test_noise_before_dithering_arrives_as_in_python(node, monkeypatch):
    (page,) = node(DOUBLE, [{"picture": 0, "noise": "before", "eps": 8}])
    numbers = node(STREAM, {"seed": 0, "n": 3 * 32 * 32})
    pictures = shown("pictures")
    model = torch.nn.Sequential(DoubleQuantizer(2, dithered=True), trained("2bit-dithered")).eval()
    Stream(numbers, monkeypatch)
    attack = AdaptivePGD(eps_255=8, step_255=2, steps=20)
    adversarial = attack.attack(model)(pictures.x[:1], pictures.y[:1])
    with torch.no_grad():
        for image in (adversarial, torch.tensor(page["attacked"]).view(1, 3, 32, 32)):
            assert model(image).argmax(1) != pictures.y[:1]
            received = model[0](image)
        assert received.flatten().tolist() == page["received"]


def test_the_page_says_of_the_cat_what_happens_to_it(node):
    after = {"picture": 0, "noise": "after"}
    before = {"picture": 0, "noise": "before", "eps": 8}
    found = node(DOUBLE, [after | {"eps": 8}, after | {"eps": 24}, before])
    cat, dog = 3, 5
    inside, beyond, early = found
    assert shown("pictures").y[0] == cat
    assert all(np.argmax(page["said"]["clean"]) == cat for page in found)
    assert [np.argmax(page["said"]["received"]) for page in found] == [cat, dog, dog]
    assert inside["changed"]["attacked"] > 3 * 32 * 32 / 2 and inside["changed"]["received"] == 0
    assert beyond["changed"]["received"] > 0 and 0 < early["steps"] < 10


# --- The export -----------------------------------------------------------------------------------


def test_the_networks_are_those_that_the_page_names():
    of = {
        name: json.loads((live.one(f"{pattern}-*") / "network.json").read_text())
        for name, pattern in live.NETWORKS.items()
    }
    asked = {name: record["configuration"] for name, record in of.items()}
    assert {c["seed"] for c in asked.values()} == {0} and len(asked) == 7 + 2
    for name in live.LENETS:
        c = asked.pop(name)
        assert (c["scale"], c["dataset"], c["maximum"]) == ("paper", "mnist", "batch")
        assert c["training"]["clean_weight"] == 0.5, "mixed"
    for c in asked.values():
        assert (c["kind"], c["scale"]) == ("double-quantization", "laptop")


def test_the_page_weighs_less_than_a_megabyte_without_its_networks(site):
    assert sum(path.stat().st_size for path in site.iterdir() if path.is_file()) < 600_000


def test_the_page_loads_every_script_that_there_is_and_no_other(site):
    text = (ROOT / "book" / "live.md").read_text(encoding="utf-8")
    loaded = [line.split('"')[1] for line in text.splitlines() if line.startswith("<script")]
    assert sorted(loaded) == sorted(f"_static/live/{path.name}" for path in site.glob("*.js"))


def test_a_network_that_is_not_there_or_there_twice_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="results/dqa-mnist/paper-relu-mixed-seed0-"):
        live.network("relu", tmp_path)
    for key in ("a", "b"):
        (tmp_path / f"dqa-mnist/paper-relu-mixed-seed0-{key}").mkdir(parents=True)
    with pytest.raises(ValueError, match="there are 2"):
        live.network("relu", tmp_path)

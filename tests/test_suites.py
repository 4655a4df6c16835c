"""What is trained and measured for the two papers: counted and compared by hand."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from reproduce import data, storage
from reproduce.attacks import FGSM, NES, PGD, AdaptivePGD, AutoAttack, HopSkipJump, Noise, Square
from reproduce.dither import bayer, floyd_steinberg, jarvis_judice_ninke
from reproduce.evaluation import correct
from reproduce.papers import double, dqa, registry
from reproduce.papers.double import Filtered, Whole
from reproduce.papers.units import AsTrained, Evaluation, Norms, OneByOne
from reproduce.quantizers import DynamicQuantizer, FixedQuantizer

QUANTISED = {f"{kind}-{b}bit" for kind in ("fixed", "dynamic") for b in (1, 2, 3)}
CELLS = {"relu"} | QUANTISED
KINDS = {f"{b}bit" for b in range(1, 9)} | {f"{b}bit-dithered" for b in range(1, 8)}
EPS = {"digits": 76.5, "mnist": 76.5, "patterns": 8, "cifar10": 8}
RUN = ("smoke", "laptop", "workstation", "paper")  # the authors' own networks have a test file


@functools.cache
def every() -> tuple:
    return tuple(n for scale in RUN for n in registry.networks(scale=scale))


def of_dqa() -> list:
    return [n for n in every() if isinstance(n, dqa.ActivationNetwork)]


def of_double() -> list:
    return [n for n in every() if isinstance(n, double.ImageNetwork)]


def evaluations(suite: dict) -> dict:
    return {name: m for name, m in suite.items() if isinstance(m, Evaluation)}


# --- The networks ---------------------------------------------------------------------------------


def test_every_seed_has_the_networks_of_the_papers_tables():
    counts = Counter(
        (n.paper, n.dataset, n.scale, n.seed) for n in every() if registry.is_of_a_table(n)
    )
    seeds = {"smoke": 1, "laptop": 3, "paper": 5}
    expected = {("dqa", "cifar10", "workstation", 0): 7}
    for scale, several in seeds.items():
        small = scale == "smoke"
        for seed in range(several):
            # LeNet's in both readings of how the paper mixes clean and adversarial examples.
            expected["dqa", "digits" if small else "mnist", scale, seed] = 14
            images = "patterns" if small else "cifar10"
            expected["dqa", images, scale, seed] = 7
            expected["double-quantization", images, scale, seed] = 15
    assert counts == expected


def test_the_cells_are_those_of_the_papers():
    plain = [n for n in every() if registry.is_of_a_table(n)]
    cells = {n.cell for n in plain if n.paper == "dqa"}
    assert cells == CELLS | {f"{cell}-mixed" for cell in CELLS}
    assert {n.cell for n in plain if n.paper != "dqa"} == KINDS


def others(scale: str) -> set[str]:
    names = [n for n in every() if n.scale == scale and not registry.is_of_a_table(n)]
    assert all(n.seed == 0 for n in names if not isinstance(n, dqa.Substitute))
    return {n.cell for n in names}


def test_beside_the_tables_stand_the_variations():
    clean = {"relu-clean", *(f"fixed-{b}bit-clean" for b in (1, 2, 3))}
    readings = {
        "fixed-2bit-mixed-image", "dynamic-2bit-mixed-tanh", "dynamic-2bit-mixed-frozen"
    }  # fmt: skip
    substitutes = {f"dynamic-{b}bit-{a}" for b in (1, 2, 3) for a in ("vgg16", "alexnet")}
    informed = {f"{cell}-mixed-informed" for cell in QUANTISED}
    halftones = {f"{b}bit-{name}" for b in (1, 2) for name in ("bayer", "jjn")}
    hardened = {"2bit-dithered-hardened", "8bit-hardened"}
    shared = clean | substitutes | informed | hardened
    assert others("smoke") == shared | readings
    assert others("laptop") == shared | readings | halftones
    assert others("paper") == shared | halftones
    assert others("workstation") == set()


def test_a_network_comes_after_those_that_it_needs():
    seen = set()
    for network in registry.networks():
        assert all(needed in seen for needed in network.needs())
        seen.add(network)


def test_every_measurement_needs_networks_of_the_registry_alone():
    known = {n.key for n in registry.networks()}
    for network in every():
        for m in registry.measurements(network):
            assert {n.key for n in m.needs()} <= known, (network.slug, m.name)


def test_mixed_means_equal_parts_of_clean_and_adversarial_examples():
    for scale, dataset in (("laptop", "mnist"), ("laptop", "cifar10")):
        alone = dqa.network(dataset, "fixed", 2, scale=scale)
        mixed = dqa.network(dataset, "fixed", 2, scale=scale, mixed=True)
        assert (alone.training.clean_weight, mixed.training.clean_weight) == (0, 0.5)
        assert replace(mixed, training=alone.training) == alone


def test_variations_of_a_network_differ_in_what_they_are_named_for_alone():
    by_cell = {
        n.cell: n for n in of_dqa() if (n.dataset, n.scale, n.seed) == ("mnist", "laptop", 0)
    }
    fixed, dynamic = by_cell["fixed-2bit-mixed"], by_cell["dynamic-2bit-mixed"]
    assert replace(by_cell["fixed-2bit-mixed-image"], maximum="batch") == fixed
    assert replace(by_cell["dynamic-2bit-mixed-tanh"], source="x") == dynamic
    frozen = by_cell["dynamic-2bit-mixed-frozen"]
    assert frozen.training.thresholds == "clean"
    assert replace(frozen, training=replace(frozen.training, thresholds=None)) == dynamic
    for cell in QUANTISED:
        informed, plain = by_cell[f"{cell}-mixed-informed"], by_cell[f"{cell}-mixed"]
        attack = informed.training.attack
        main = registry.suites(plain)["trial"]["main"].attack
        assert (attack.backward, attack.temperature) == ("sigmoid", 5)
        assert (main.backward, main.temperature) == ("sigmoid", 5)
        attack = replace(attack, backward=None, temperature=None)
        assert replace(informed, training=replace(informed.training, attack=attack)) == plain
    table2 = {
        n.cell: n for n in of_dqa() if (n.dataset, n.scale, n.seed) == ("cifar10", "paper", 0)
    }
    undefended = table2["relu-clean"]
    assert undefended.training.attack is None
    own = table2["relu"].training
    restored = replace(undefended.training, attack=own.attack, clean_epochs=own.clean_epochs)
    assert replace(undefended, training=restored) == table2["relu"]


def test_the_control_of_every_reading_is_the_network_with_relu_trained_in_the_same_way():
    for network in of_dqa():
        control = network.control
        if network.activation == "relu":
            assert control is None
            continue
        ending = "-mixed" if network.training.clean_weight else ""
        ending += "-clean" if network.training.attack is None else ""
        where = [(n.dataset, n.scale, n.seed, n.width, n.train_images) for n in (network, control)]
        assert control.cell == f"relu{ending}" and where[0] == where[1]
        ours, theirs = network.training, control.training
        assert theirs == replace(ours, thresholds=None, attack=theirs.attack)
        if ours.attack is not None:
            assert theirs.attack == PGD(
                ours.attack.eps_255, ours.attack.step_255, ours.attack.steps
            )


def test_training_attacks_have_the_radius_of_the_table():
    for network in every():
        attack = getattr(network.training, "attack", None)
        assert attack is None or attack.eps_255 == EPS[network.dataset]


@pytest.mark.parametrize("make", [dqa.network, dqa.informed])
def test_an_impossible_network_of_dqa_is_refused_in_one_line(make):
    for arguments, options, says in (
        (("nonsense", "fixed", 1), {}, "'nonsense'.*there are:.*digits at smoke"),
        (("mnist", "fixed", 1), {"scale": "smoke"}, "'mnist' at scale 'smoke'"),
        (("mnist", "fixed", 1), {"seed": -1}, "seed is -1"),
        (("mnist", "fixed", 1), {"seed": True}, "seed is True"),
        (("mnist", "gelu", 1), {}, "gelu"),
        (("mnist", "relu", 1), {}, "relu"),
        (("mnist", "fixed", 0), {}, "bits is 0"),
        (("mnist", "dynamic", 4), {}, "bits is 4"),
        (("mnist", "fixed", 1.0), {}, r"bits is 1\.0"),
    ):
        with pytest.raises((ValueError, TypeError), match=says) as caught:
            make(*arguments, **options)
        assert "\n" not in str(caught.value)


def test_mixed_must_be_a_truth_value():
    with pytest.raises(TypeError, match="mixed is 'false'"):
        dqa.network("mnist", "fixed", 1, mixed="false")


@pytest.mark.parametrize(
    ("bits", "dithered", "options", "says"),
    [
        (0, False, {}, "bits=0"), (9, False, {}, "bits=9"), (8, True, {}, "bits=8"),
        (True, False, {}, "bits=True"), (1.0, False, {}, r"bits=1\.0"), (2, 1, {}, "dithered=1"),
        (1, True, {"scale": "huge"}, "scale is 'huge'"), (1, True, {"seed": 0.5}, "seed is 0.5"),
        (1, True, {"halftone": "ordered"}, "halftone is 'ordered'"),
        (1, False, {"halftone": "jjn"}, "halftone is 'jjn'"),
    ],
)  # fmt: skip
def test_what_is_none_of_the_15_models_is_refused(bits, dithered, options, says):
    with pytest.raises(ValueError, match=says) as caught:
        double.network(bits, dithered, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        ({"paper": "x"}, "paper is 'x'; choose one of dqa, double-quantization"),
        ({"scale": "x"}, "scale is 'x'; choose one of smoke, laptop"),
        ({"scale": "smoke", "seed": -1}, "seed is -1"),
    ],
)
def test_an_unknown_filter_is_refused_in_one_line(filters, says):
    with pytest.raises(ValueError, match=says):
        list(registry.networks(**filters))


# --- What is built --------------------------------------------------------------------------------


def weights(network, noise: int = 0) -> str:
    torch.manual_seed(noise)
    state = torch.get_rng_state()
    found = storage.tensors_sha256(network.build().state_dict())
    assert torch.equal(torch.get_rng_state(), state), "building leaves the generator alone"
    return found


def test_the_seed_and_nothing_else_decides_the_initial_weights():
    one, other = (dqa.network("digits", "fixed", 2, scale="smoke", seed=s) for s in (0, 1))
    assert weights(one, 1) == weights(one, 2) != weights(other)
    models = [double.network(*kind, scale="smoke") for kind in ((1, False), (7, True))]
    assert weights(models[0], 1) == weights(models[1], 2)


def test_a_network_is_the_one_that_its_fields_describe():
    def layers(network, kind) -> list:
        return [m for m in network.build().modules() if isinstance(m, kind)]

    image = replace(dqa.network("digits", "fixed", 3, scale="smoke"), maximum="image")
    assert [(q.bits, q.maximum) for q in layers(image, FixedQuantizer)] == [(3, "image")] * 4
    tanh = replace(dqa.network("digits", "dynamic", 2, scale="smoke"), source="tanh")
    assert [(q.bits, q.source) for q in layers(tanh, DynamicQuantizer)] == [(2, "tanh")] * 4
    assert len(layers(dqa.network("digits", "relu", None, scale="smoke"), torch.nn.ReLU)) == 4
    for width in 8, 12:
        wide = replace(dqa.network("patterns", "relu", None, scale="smoke"), width=width)
        assert layers(wide, torch.nn.Conv2d)[0].out_channels == width


# --- Tables of DQA --------------------------------------------------------------------------------


def test_the_tables_of_dqa_have_clean_images_fgsm_and_pgd_at_their_radius():
    tested = {"patterns": 100, "digits": None, "mnist": None}
    for network in of_dqa():
        suite = registry.suites(network)["table"]
        eps = EPS[network.dataset]
        pgd = PGD(8, 2, 7) if eps == 8 else PGD(76.5, 2.55, 40)
        attacks = {"clean": None, "fgsm": FGSM(eps), "pgd": pgd}
        assert {name: e.attack for name, e in evaluations(suite).items()} == attacks
        images = tested.get(network.dataset, 1_000 if network.scale == "laptop" else None)
        for e in evaluations(suite).values():
            assert (e.images, e.batch, e.seed) == (images, 125, network.seed)
            assert type(e.view) is AsTrained and e.source is None and e.network == network
        assert suite["examples"].attacks == attacks
        assert ("features" in suite) == (network.width is not None)


def test_features_are_kept_for_one_seed_alone():
    maps = Counter((n.seed == 0, registry.suites(n)["table"]["features"].maps)
                   for n in of_dqa() if n.width is not None)  # fmt: skip
    assert maps.keys() == {(True, True), (False, None)}


# --- The trial of DQA -----------------------------------------------------------------------------

BUDGET = {  # many images, few, under noise, and HopSkipJump's
    ("digits", "smoke"): (20, 8, 20, 4),
    ("patterns", "smoke"): (20, 8, 20, 4),
    ("mnist", "laptop"): (500, 100, 500, 100),
    ("mnist", "paper"): (2_000, 500, 2_000, 500),
    ("cifar10", "laptop"): (500, 100, 500, 100),
    ("cifar10", "workstation"): (500, 200, 500, 100),
    ("cifar10", "paper"): (2_000, 1_000, 500, 1_000),
}


@functools.cache
def trials() -> tuple:
    """(network, trial) of each network of DQA that has one."""
    found = [(n, registry.suites(n)) for n in of_dqa()]
    assert all(("trial" in s) == (n.training.attack is not None) for n, s in found)
    return tuple((n, s["trial"]) for n, s in found if "trial" in s)


def test_a_trial_asks_for_one_image_at_a_time():
    for network, trial in trials():
        for m in trial.values():
            assert type(m.view) is OneByOne and m.network == network and m.seed == network.seed


def test_all_of_a_trial_is_at_one_radius_but_for_what_is_named_for_its_own():
    for network, trial in trials():
        eps = EPS[network.dataset]
        at = {f"eps/{share:g}": eps * share for share in (0, 0.25, 0.5, 2)} | {"eps/unbounded": 255}
        for name, e in evaluations(trial).items():
            if e.attack is not None:
                assert e.attack.eps_255 == at.get(name, eps), (network.slug, name)
        assert at.keys() <= trial.keys() and trial["clean"].attack is None


def test_a_trial_takes_the_images_of_its_scale():
    dear = (Square, AutoAttack, NES)
    for network, trial in trials():
        many, few, noisy, walkers = BUDGET[network.dataset, network.scale]
        for name, e in evaluations(trial).items():
            expected = many
            if isinstance(e.attack, dear) or name == "steps/long":
                expected = few
            elif isinstance(e.attack, Noise):
                expected = noisy
            elif isinstance(e.attack, HopSkipJump):
                expected = walkers
            assert (e.images, e.batch) == (expected, 250), (network.slug, name)
            assert e.images <= trial["clean"].images


def test_the_ladder_goes_from_no_gradient_to_the_smooth_quantiser():
    rules = {
        "zero": ("zero", None), "straight_through": ("straight_through", None),
        "tanh": ("tanh", None), "sigmoid-1": ("sigmoid", 1), "sigmoid-5": ("sigmoid", 5),
        "sigmoid-10": ("sigmoid", 10),
    }  # fmt: skip
    for network, trial in trials():
        found = {
            name.removeprefix("rule/"): (e.attack.backward, e.attack.temperature)
            for name, e in evaluations(trial).items() if name.startswith("rule/")
        }  # fmt: skip
        relu = network.activation == "relu"
        assert found == ({"own": (None, None)} if relu else rules)
        pgd = registry.suites(network)["table"]["pgd"].attack
        for name in found:  # all but the rule is the table's
            attack = trial[f"rule/{name}"].attack
            size = attack.eps_255, attack.step_255, attack.steps, attack.restarts
            assert size == (pgd.eps_255, pgd.step_255, pgd.steps, 1)
            assert attack.loss == AdaptivePGD(eps_255=8, step_255=2, steps=1).loss


def test_the_other_white_box_attacks_vary_the_main_one():
    for network, trial in trials():
        main = trial["main"].attack
        assert (main.step_255, main.restarts) == (main.eps_255 / 4, 1)
        rule = (None, None) if network.activation == "relu" else ("sigmoid", 5)
        assert (main.backward, main.temperature) == rule
        assert main.steps == (10 if network.scale == "smoke" else 100)
        variations = {
            "steps/twice": {"steps": 2 * main.steps}, "steps/7": {"steps": 7},
            "steps/20": {"steps": 20}, "step/2": {"step_255": 2}, "scaled": {"scaled": True},
            "loss/margin": {"loss": "margin"}, "loss/dlr": {"loss": "dlr"},
            "steps/long": {"steps": 20 if network.scale == "smoke" else 1_000},
        }  # fmt: skip
        for name, changes in variations.items():
            expected = replace(main, **changes)
            measured = {e.attack for e in evaluations(trial).values()}
            # What another name measures already stands there once.
            assert expected in measured
            assert name not in trial or trial[name].attack == expected
        diagnosed = trial["diagnostics"].attacks
        pgd = registry.suites(network)["table"]["pgd"].attack
        own = AdaptivePGD(eps_255=pgd.eps_255, step_255=pgd.step_255, steps=pgd.steps)
        assert diagnosed == {"own": own, "main": main}


def test_the_attack_that_a_file_can_hold_is_the_main_one_and_one_that_starts_again():
    for network, trial in trials():
        suite, main = dqa.file(network), trial["main"]
        held = replace(main.attack, file="uint8")
        assert suite["file/main"] == replace(main, name="file/main", attack=held)
        again = suite["file/restarts"].attack
        assert again == replace(held, loss="margin", restarts=again.restarts)
        assert again.restarts == (2 if network.scale == "smoke" else 5)


def test_a_trial_measures_nothing_twice():
    for network, trial in trials():
        found = [replace(m, name="same") for m in trial.values()]
        assert all(found.count(one) == 1 for one in found), network.slug


def test_every_family_of_attack_is_in_a_trial():
    wanted = {"gradient", "score", "decision", "noise", "ensemble"}
    for _, trial in trials():
        attacks = [e.attack for e in evaluations(trial).values()]
        assert {a.family for a in attacks if a is not None} == wanted and None in attacks


def test_transfer_attacks_come_from_the_control_and_walk_all_the_way():
    for network, trial in trials():
        sources = {name: e.source for name, e in evaluations(trial).items() if e.source}
        relu = network.activation == "relu"
        assert sources == ({} if relu else {"transfer": network.control})
        if not relu:
            walk, eps = trial["transfer"].attack, EPS[network.dataset]
            assert type(walk) is PGD and walk.step_255 == eps / 10
            assert trial["transfer"].needs() == (network, network.control)


def test_an_informed_network_goes_through_the_trial_of_the_plain_one():
    def shown(network) -> dict:
        found = registry.suites(network)["trial"]
        return {name: replace(m, network=plain, name="same") for name, m in found.items()}

    plain = dqa.network("mnist", "fixed", 1, mixed=True)
    assert shown(dqa.informed("mnist", "fixed", 1)) == shown(plain)


# --- Views ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("activation", "bits"), [("fixed", 2), ("dynamic", 2), ("relu", None)])
def test_asked_one_by_one_an_answer_does_not_depend_on_the_neighbours(activation, bits):
    network = dqa.network("digits", activation, bits, scale="smoke")
    model, x = network.build().eval(), data.load("digits").x_test[:12] / 255
    with torch.no_grad():  # a maximum that differs from image to image
        x = x * torch.linspace(0.05, 1, 12)[:, None, None, None]
        judge = OneByOne().judge(model)
        together, alone = judge(x), torch.cat([model(one[None]) for one in x])
        assert torch.allclose(together, alone, atol=1e-4)
        batch = AsTrained().judge(model)(x)
        assert torch.equal(batch, model(x))
        assert torch.allclose(batch, alone, atol=1e-4) == (activation != "fixed")
        # The first pass is the network's own: judging has left it as it was.
        assert torch.equal(model(x), batch)


def test_an_attack_sees_what_answers_unless_it_comes_from_another_network():
    model, other = (dqa.network("digits", a, b, scale="smoke").build().eval()
                    for a, b in (("fixed", 1), ("relu", None)))  # fmt: skip
    x = data.load("digits").x_test[:5] / 255
    assert AsTrained().seen(model, other) is other and AsTrained().seen(model, None) is None
    assert OneByOne().seen(model, None) is None
    with torch.no_grad():
        assert torch.allclose(OneByOne().seen(model, other)(x), other(x), atol=1e-5)


PATTERNS = data.load("patterns")
HALFTONES = {None: floyd_steinberg, "bayer": bayer, "jjn": jarvis_judice_ninke}


def grey(x, bits: int, dithered: bool, halftone=None):
    """The levels of an image as the paper's filter leaves it, as float64."""
    if dithered:
        x = HALFTONES[halftone](x, bits)
    return (x.int() // 2 ** (8 - bits)).double() / (2**bits - 1)


@pytest.mark.parametrize("halftone", HALFTONES)
@pytest.mark.parametrize("bits", range(1, 8))
def test_quantised_images_are_on_the_levels_of_the_dithering(bits, halftone):
    x = PATTERNS.x_test[:4]
    found = double.quantised(x, bits, True, halftone)
    assert found.dtype == torch.float32 and found.shape == x.shape
    top = 2**bits - 1
    k = (found * top).round()
    assert torch.allclose(k / top, found, atol=1e-6)
    exact, stored = k.double() / top * 255, HALFTONES[halftone](x, bits)
    if halftone is None:  # as released; the others are stored to the nearest grey value
        assert torch.equal((exact + 1e-6).floor().byte(), stored)
    assert ((exact - stored).abs() < 1).all()
    plain = double.quantised(x, bits, False)
    assert torch.allclose(plain.double(), grey(x, bits, False), atol=1e-6)


def test_eight_bits_are_the_images_themselves():
    x = PATTERNS.x_test[:4]
    assert torch.equal((double.quantised(x, 8, False) * 255).round().byte(), x)
    with pytest.raises(ValueError, match="bits"):
        double.quantised(x, 8, True)


@pytest.mark.parametrize("kind", [(1, True, None), (2, False, None), (2, True, "jjn")])
def test_noise_after_dithering_meets_the_second_quantisation_alone(kind):
    bits, dithered, halftone = kind
    view = Filtered(bits=bits, dithered=dithered, halftone=halftone, noise="after", sees="network")
    x = PATTERNS.x_test[:4]
    sent = view.sent(x)
    levels = grey(x, *kind)
    assert torch.equal(sent, (levels * 255).round().byte())
    model = double.network(bits, dithered, scale="smoke", halftone=halftone).build().eval()
    guard = view.judge(model)[0]
    assert torch.allclose(guard(sent / 255).double(), levels, atol=1e-6), "it finds the level again"
    with torch.no_grad():
        assert torch.allclose(view.judge(model)(sent / 255), model(levels.float()), atol=1e-4)
        seen = view.seen(model, None)
        assert torch.allclose(seen(x / 255), model(x / 255), atol=1e-4), "no filter in front"
    assert replace(view, sees="pipeline").seen(model, None) is None


@pytest.mark.parametrize("kind", [(1, True), (2, False)])
def test_noise_before_dithering_meets_all_of_the_defence(kind):
    view = Filtered(bits=kind[0], dithered=kind[1], noise="before", sees="pipeline")
    x = PATTERNS.x_test[:4]
    model = double.network(*kind, scale="smoke").build().eval()
    assert torch.equal(view.sent(x), x) and view.seen(model, None) is None
    with torch.no_grad():
        expected = model(grey(x, *kind).float())
        assert torch.allclose(view.judge(model)(x / 255), expected, atol=1e-4)


def test_the_hardened_network_sees_an_image_as_the_filter_leaves_it():
    for kind in ((2, True), (8, False)):
        network = double.hardened(*kind, scale="smoke")
        model, x = network.build().eval(), PATTERNS.x_test[:4]
        assert torch.equal(network.prepare(x), x / 255), "it is attacked before the filter"
        with torch.no_grad():
            inside = model[1](grey(x, *kind).float())
            assert torch.allclose(model(x / 255), inside, atol=1e-4)
            assert torch.allclose(Whole().judge(model)(x / 255), inside, atol=1e-4)
            bare = Whole(sees="network").seen(model, None)
            assert torch.allclose(bare(x / 255), model[1](x / 255), atol=1e-4)


def test_a_hardened_network_is_attacked_as_the_same_network_behind_the_filter():
    hardened, plain = (
        double.hardened(2, True, scale="smoke"),
        double.network(2, True, scale="smoke"),
    )
    theirs, ours = (registry.suites(n)["trial"] for n in (plain, hardened))
    model = hardened.build().eval()
    with torch.no_grad():  # answers that differ from image to image
        model[1][-1].weight.mul_(30)
    assert {m.attack for m in ours.values()} <= {m.attack for m in theirs.values()}
    for name in "before/clean", "before/bare", "before/identity":
        found = [
            m.outcome({m.network: network}, PATTERNS).bits
            for m, network in ((ours[name], model), (theirs[name], model[1]))
        ]
        assert torch.equal(*found), name


# --- Double quantization --------------------------------------------------------------------------


def test_the_tables_have_every_network_on_every_kind_of_image():
    attacked = {"smoke": 20, "laptop": 1_000, "paper": None}
    plain = [n for n in of_double() if registry.is_of_a_table(n)]
    for network in plain:
        suite = registry.suites(network)["table"]
        assert suite.keys() == {f"{c}/{kind}" for c in ("clean", "pgd") for kind in KINDS}
        steps = 3 if network.scale == "smoke" else 20
        for name, e in suite.items():
            condition, kind = name.split("/")
            pgd = condition == "pgd"
            assert e.attack == (PGD(8, 2, steps, random_start=False) if pgd else None)
            tested = attacked[network.scale] if pgd else {"smoke": 100}.get(network.scale)
            assert e.images == tested and e.seed == network.seed
            view = e.view
            assert (f"{view.bits}bit" + "-dithered" * view.dithered, view.halftone) == (kind, None)
            assert (view.noise, view.sees, view.rounding) == ("after", "network", None)


def test_networks_for_other_halftones_are_tested_on_their_own_kind_and_on_8_bits():
    for network in of_double():
        if network.halftone:
            suite = registry.suites(network)
            own = f"{network.bits}bit-{network.halftone}"
            assert suite.keys() == {"table"}
            assert suite["table"].keys() == {f"clean/{own}", f"pgd/{own}", "clean/8bit"}
            views = [suite["table"][f"{c}/{own}"].view for c in ("clean", "pgd")]
            assert {v.halftone for v in views} == {network.halftone}
            plain = replace(network, halftone=None)
            assert plain == double.network(network.bits, True, scale=network.scale)


def radius(bits: int, rounding: str) -> int:
    """How many whole grey levels no level of an image leaves, by counting."""
    top = 2**bits - 1

    def holds(reach: int) -> bool:
        for k in range(top + 1):
            stored = Fraction(255 * k, top)
            for value in {int(stored), round(stored)}:
                for moved in range(max(0, value - reach), min(255, value + reach) + 1):
                    near = round(Fraction(moved * top, 255))
                    if k != (moved // 2 ** (8 - bits) if rounding == "floor" else near):
                        return False
        return True

    return next(r for r in range(256) if not holds(r + 1))


def test_a_trial_goes_to_both_sides_of_the_filters_radius():
    for network in of_double():
        trial = registry.suites(network).get("trial")
        if trial is None or isinstance(network, double.HardenedNetwork):
            continue
        floor, nearest = (radius(network.bits, r) for r in ("floor", "nearest"))
        eps = {name: e.attack.eps_255 for name, e in trial.items() if e.attack is not None}
        assert {n: e for n, e in eps.items() if n.startswith("before")} == {
            n: 8 for n in eps if n.startswith("before")
        }
        assert [eps[f"after/{e}"] for e in (2, 4, 8, 16, 24, 32)] == [2, 4, 8, 16, 24, 32]
        assert eps["after/inside"] == floor and eps["after/outside"] == floor + 1
        assert eps["after/nearest-inside"] <= nearest < eps["after/nearest-outside"]
        for name, e in trial.items():
            noise = "before" if name.startswith("before/") else "after"
            rounding = "nearest" if "nearest" in name else None
            assert (e.view.noise, e.view.rounding) == (noise, rounding)
            assert (e.view.bits, e.view.dithered) == (network.bits, network.dithered)
            blind = name in {"after/nearest", "before/bare"} or name[6:].isdigit()
            assert e.view.sees == ("network" if blind else "pipeline"), name


def test_transfer_before_dithering_comes_from_the_network_of_8_bits():
    for network in of_double():
        trial = registry.suites(network).get("trial", {})
        sources = {e.source for e in trial.values()} - {None}
        if network.bits == 8 or isinstance(network, double.HardenedNetwork):
            assert sources == set()
        elif trial:
            (source,) = sources
            assert (source.cell, source.seed, source.scale) == ("8bit", network.seed, network.scale)


def test_trials_of_double_quantization_take_the_images_of_their_scale():
    images = {"smoke": (20, 8), "laptop": (500, 100), "paper": (10_000, 1_000)}
    dear = {"identity", "averaged", "strong", "square", "transfer"}
    for network in of_double():
        many, few = images[network.scale]
        for name, e in registry.suites(network).get("trial", {}).items():
            rare = name.startswith("before/") and name.split("/")[1] in dear
            assert e.images == (few if rare else many), (network.slug, name)


def test_the_checks_move_one_thing_at_a_time():
    base = double.network(2, True)
    suite, trial = registry.suites(base)["checks"], registry.suites(base)["trial"]
    main = trial["before/averaged"].attack
    attacks = {name: e.attack for name, e in evaluations(suite).items()}
    assert attacks.pop("clean") is None and attacks.pop("main") == main
    assert attacks.pop("steps/twice") == replace(main, steps=2 * main.steps)
    assert attacks.pop("noise").eps_255 == main.eps_255 == 8
    radii = {"eps/0": 0, "eps/0.25": 2, "eps/0.5": 4, "eps/2": 16, "eps/unbounded": 255}
    assert {name: a.eps_255 for name, a in attacks.items()} == radii
    assert all(replace(a, eps_255=8, step_255=main.step_255) == main for a in attacks.values())
    assert {e.view.noise for e in evaluations(suite).values()} == {"before"}
    assert suite["diagnostics"].attacks == {"main": main}


def test_checks_are_for_the_first_seed_of_the_15_models():
    checked = [n for n in of_double() if "checks" in registry.suites(n)]
    assert Counter(n.scale for n in checked) == dict.fromkeys(("smoke", "laptop", "paper"), 15)
    assert {n.seed for n in checked} == {0} and {n.cell for n in checked} == KINDS


# --- Tables 3, 5 and 6 of DQA ---------------------------------------------------------------------


def test_networks_without_adversarial_training_meet_cw_and_ddn_and_those_with_it_zoo_as_well():
    clean = {f"{cell}-clean" for cell in ("relu", "fixed-1bit", "fixed-2bit", "fixed-3bit")}
    trained_on = {"relu", "dynamic-1bit", "dynamic-2bit", "dynamic-3bit"}
    for scale, images in (("laptop", {100}), ("paper", {1_000, 200})):
        of_scale = [n for n in of_dqa() if n.width is not None and n.scale == scale]
        assert not any("norms" in registry.suites(n) for n in of_scale if n.seed)
        resnets = [n for n in of_scale if not n.seed]
        suites = {n.cell: registry.suites(n) for n in resnets}
        assert not any("norms" in registry.suites(n) for n in of_dqa() if n.width is None)
        found = {cell: s["norms"] for cell, s in suites.items() if "norms" in s}
        assert found.keys() == clean | trained_on
        for cell, suite in found.items():
            backward = ("own",) if "relu" in cell else ("own", "sigmoid")
            rules = {f"{attack}/{rule}" for attack in ("cw", "ddn") for rule in backward}
            zoo = {name: m.attack.h_255 for name, m in suite.items() if name.startswith("zoo")}
            assert suite.keys() - zoo.keys() == rules
            widths = [] if cell in clean else [1e-4, 1e-3, *(k / 255 for k in (1, 2, 4, 8))]
            assert [h / 255 for h in zoo.values()] == pytest.approx(widths)
            assert {m.images for m in suite.values()} <= images
            assert all(type(m) is Norms and type(m.view) is OneByOne for m in suite.values())
            for attack in ("cw", "ddn"):
                if f"{attack}/sigmoid" in suite:
                    sigmoid = suite[f"{attack}/sigmoid"]
                    assert (sigmoid.backward, sigmoid.temperature) == ("sigmoid", 5)
                    assert suite[f"{attack}/own"].backward is None


def test_attacks_on_a_substitute_are_shown_to_both_networks():
    found = [n for n in every() if isinstance(n, dqa.Substitute)]
    assert Counter(n.scale for n in found) == {"smoke": 6, "laptop": 18, "paper": 30}
    for network in found:
        target, suite = network.target, registry.suites(network)["transfer"]
        assert network.needs() == (target,) and network.training.attack is None
        assert (network.seed, network.width) == (target.seed, target.width)
        table = registry.suites(target)["table"]
        assert suite.keys() == {"agreement"} | {
            f"{who}/{name}"
            for who in ("substitute", "defense")
            for name in ("clean", "fgsm", "pgd")
        }
        for name, e in evaluations(suite).items():
            who, condition = name.split("/")
            assert e.attack == table[condition].attack and e.images == table[condition].images
            assert e.network == (network if who == "substitute" else target)
            crossed = who == "defense" and condition != "clean"
            assert e.source == (network if crossed else None)
        assert (suite["agreement"].network, suite["agreement"].other) == (target, network)


def test_a_substitute_learns_the_answers_of_its_target_to_the_images_as_they_are():
    network = dqa.substitute(dqa.network("patterns", "dynamic", 1, scale="smoke"), "alexnet")
    network = replace(network, train_images=12)
    target = network.target.build().eval()
    with torch.no_grad():
        expected = target(PATTERNS.x_train[:12] / 255).argmax(1)
    assert torch.equal(network.labels(PATTERNS, {network.target: target}), expected)


def test_what_is_no_target_and_no_substitute_is_refused():
    resnet = dqa.network("patterns", "dynamic", 1, scale="smoke")
    with pytest.raises(ValueError, match="architecture is 'vgg'; choose one of vgg16, alexnet"):
        dqa.substitute(resnet, "vgg")
    with pytest.raises(ValueError, match="has no substitutes"):
        dqa.substitute(dqa.network("digits", "dynamic", 1, scale="smoke"), "vgg16")


# --- Outcomes -------------------------------------------------------------------------------------


def test_an_evaluation_is_of_its_first_images_attack_batch_and_seed():
    network = dqa.network("digits", "fixed", 1, scale="smoke")
    model, digits = network.build().eval(), data.load("digits")
    attack = PGD(20, 5, 2)
    options = {"network": network, "name": "a", "images": 15, "batch": 10, "seed": 3}
    found = Evaluation(attack=attack, **options).outcome({network: model}, digits).bits
    x, y = digits.x_test[:15], digits.y_test[:15]
    assert torch.equal(found, correct(model, x, y, attack, batch_size=10, seed=3))


def test_more_images_epochs_and_steps_are_more_work():
    network = dqa.network("digits", "fixed", 1, scale="smoke")
    training = network.training
    longer = [
        replace(network, training=replace(training, epochs=9)),
        replace(network, training=replace(training, clean_epochs=0)),
        replace(network, training=replace(training, attack=replace(training.attack, steps=9))),
        replace(network, train_images=1_490),
    ]
    less = replace(network, train_images=1_400)
    assert all(n.training_passes > less.training_passes > 0 for n in longer)
    base = Evaluation(network=network, name="a", attack=PGD(8, 2, 3), images=5, batch=5, seed=0)
    more = [replace(base, images=6), replace(base, attack=PGD(8, 2, 4))]
    more += [replace(base, attack=AdaptivePGD(eps_255=8, step_255=2, steps=3, restarts=2))]
    assert all(m.passes > base.passes > replace(base, attack=None).passes > 0 for m in more)
    wide = dqa.network("cifar10", "relu", None, scale="paper")
    assert wide.macs > replace(wide, width=32).macs > network.macs

"""DQA (Rakin et al. 2018): networks with quantised activations, and what they are attacked with.

From top to bottom: the networks and their recipes, what the tables print, the trial, the smallest
perturbations (Tables 3 and 5), and the attacks through substitutes (Table 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from reproduce import models
from reproduce.attacks import (
    DDN,
    FGSM,
    NES,
    PGD,
    ZOO,
    AdaptivePGD,
    Attack,
    AutoAttack,
    CarliniWagner,
    HopSkipJump,
    Noise,
    Square,
)
from reproduce.checks import check_fields, check_text, choice, of_kind, settle, whole
from reproduce.checks import shown as as_shown
from reproduce.papers.diagnostics import AttackedImages, Diagnostics, Features
from reproduce.papers.units import (
    Agreement,
    Evaluation,
    Measurement,
    Network,
    Norms,
    OneByOne,
    answers,
    check_where,
    seeded_build,
)
from reproduce.quantizers import activation as activation_layer
from reproduce.training import Settings

ACTIVATIONS = (("relu", None), *((kind, b) for b in (1, 2, 3) for kind in ("fixed", "dynamic")))


def cell(activation: str, bits: int | None) -> str:
    """A network of Tables 1 and 2: "relu", "fixed-1bit", ... "dynamic-3bit"."""
    activation_layer(activation, bits)  # complains of both
    return activation + (f"-{bits}bit" if bits else "")


# --- The networks ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ActivationNetwork(Network):
    """A network with ReLU, fixed or dynamic activations.

    Args:   activation: relu, fixed or dynamic. bits: 1..3, None for relu. maximum, source: the
            readings of Eq. 2 and Eq. 8 (reproduce.quantizers). width: of ResNet-18, None for LeNet.
    Source: DQA, Tables 1 and 2.
    """

    activation: str
    bits: int | None
    maximum: Literal["batch", "image"] = "batch"
    source: Literal["x", "tanh"] = "x"
    width: int | None = None

    kind: ClassVar[str] = "dqa"
    paper: ClassVar[str] = "dqa"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None:
            settle(self, whole, "width", least=1, most=4_096)
        self._layer()

    @property
    def cell(self):
        endings = {
            "mixed": self.training.clean_weight,
            "clean": self.training.attack is None,
            "frozen": self.training.thresholds == "clean",
            "informed": getattr(self.training.attack, "backward", None),
            "image": self.maximum == "image",
            "tanh": self.source == "tanh",
        }
        name = cell(self.activation, self.bits)
        return "-".join([name, *(ending for ending, applies in endings.items() if applies)])

    def _layer(self):
        options = {"fixed": {"maximum": self.maximum}, "dynamic": {"source": self.source}}
        return activation_layer(self.activation, self.bits, **options.get(self.activation, {}))

    def build(self):
        if self.width is None:
            return seeded_build(lambda: models.lenet(self._layer()), self.seed)
        return seeded_build(lambda: models.resnet18(self._layer(), width=self.width), self.seed)

    @property
    def macs(self):
        return 0.42e6 if self.width is None else 557e6 * (self.width / 64) ** 2

    @property
    def control(self) -> ActivationNetwork | None:
        """The network with ReLU that was trained in the same way; None for itself.

        What is said of quantisers is nothing to ReLU: all readings of them have one control.
        """
        if self.activation == "relu":
            return None
        training = replace(self.training, thresholds=None)
        if training.attack is not None:
            plain = replace(training.attack, backward=None, temperature=None)
            training = replace(training, attack=plain)
        options = {"activation": "relu", "bits": None, "maximum": "batch", "source": "x"}
        return replace(self, training=training, **options)


def _mnist(epochs: int, clean_epochs: int, ramp_epochs: int, attack: PGD, **options) -> dict:
    training = Settings(
        epochs=epochs,
        clean_epochs=clean_epochs,
        ramp_epochs=ramp_epochs,
        schedule="one_cycle",
        lr=5e-3,
        attack=attack,
        **options,
    )
    return {"training": training}


def _cifar10(epochs: int, clean_epochs: int, width: int, train_images: int | None = None) -> dict:
    training = Settings(
        epochs=epochs,
        clean_epochs=clean_epochs,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        schedule="one_cycle",
        augment=True,
        autocast=True,
        attack=PGD(8, 2, 7),
    )
    return {"training": training, "width": width, "train_images": train_images}


_SHORT, _LONG = PGD(76.5, 25.5, 5), PGD(76.5, 2.55, 40)
RECIPES = {
    ("digits", "smoke"): _mnist(4, 1, 2, _SHORT),
    ("mnist", "laptop"): _mnist(6, 1, 3, _SHORT, autocast=True),
    ("mnist", "paper"): _mnist(25, 5, 5, _LONG, autocast=True),
    ("patterns", "smoke"): _cifar10(2, 1, width=8, train_images=500),
    ("cifar10", "laptop"): _cifar10(15, 3, width=16, train_images=10_000),
    ("cifar10", "workstation"): _cifar10(10, 2, width=16),
    ("cifar10", "paper"): _cifar10(30, 5, width=64),
}


def network(
    dataset: str,
    activation: str,
    bits: int | None,
    *,
    seed: int = 0,
    scale: str = "laptop",
    mixed: bool = False,
) -> ActivationNetwork:
    """A network of Table 1 (mnist) or Table 2 (cifar10); digits and patterns are smoke tests.

    Args:   activation: relu, fixed or dynamic. bits: 1..3, None for relu. mixed: train on clean and
            adversarial examples in equal parts, as the paper's text says; by default on adversarial
            examples alone, as Eq. 7 says.
    Raises: ValueError: a data set that the scale does not have, or a bad activation, bits or seed.
            TypeError: bits that are no int, mixed that is no bool.
    """
    check_where(scale, seed)
    if type(mixed) is not bool:
        raise TypeError(f"mixed is {as_shown(mixed)}; give True or False")
    check_text("dataset", dataset)
    recipe = RECIPES.get((dataset, scale))
    if recipe is None:
        have = ", ".join(f"{d} at {s}" for d, s in RECIPES)
        raise ValueError(f"no DQA network on {dataset!r} at scale {scale!r}; there are: {have}")
    if mixed:
        recipe = recipe | {"training": replace(recipe["training"], clean_weight=0.5)}
    where = {"dataset": dataset, "scale": scale, "seed": seed}
    return ActivationNetwork(activation=activation, bits=bits, **where, **recipe)


def undefended(base: ActivationNetwork) -> ActivationNetwork:
    """The same network trained on clean images alone (Table 3, first column)."""
    of_kind("base", base, ActivationNetwork)
    return replace(base, training=replace(base.training, attack=None, clean_epochs=0))


READINGS = {
    "fixed-2bit-mixed-image": "the maximum of Eq. 2 over the image, not the batch",
    "dynamic-2bit-mixed-tanh": "Eq. 8 on tanh x, not x",
    "dynamic-2bit-mixed-frozen": "thresholds learnt in the clean epochs alone",
}


def readings(base: ActivationNetwork) -> list[ActivationNetwork]:
    """A network of Table 1 under the other readings of the paper that READINGS lists."""
    of_kind("base", base, ActivationNetwork)
    others = [
        replace(base, maximum="image"),
        replace(base, source="tanh"),
        replace(base, training=replace(base.training, thresholds="clean")),
    ]
    return [e for e in others if e.cell in READINGS]


# The middle temperature of the ladder and a quarter of the radius as step, for every network alike.
MAIN_RULE = {"backward": "sigmoid", "temperature": 5.0}


def informed(
    dataset: str, activation: str, bits: int, *, seed: int = 0, scale: str = "laptop"
) -> ActivationNetwork:
    """A quantised network of Table 1 whose training attack takes the trial's main rule.

    It is trained on clean and adversarial examples mixed, the reading in which fewer collapse.

    Raises: ValueError, TypeError: as `network`. ValueError: relu, which has nothing to know.
    """
    if isinstance(activation, str) and activation == "relu":
        raise ValueError("activation is 'relu'; choose fixed or dynamic")
    plain = network(dataset, activation, bits, seed=seed, scale=scale, mixed=True)
    attack = replace(plain.training.attack, **MAIN_RULE)
    return replace(plain, training=replace(plain.training, attack=attack))


SEEDS = {"smoke": 1, "laptop": 3, "workstation": 1, "paper": 5}


def networks(scale: str, seed: int) -> Iterator[ActivationNetwork]:
    """Tables 1 and 2; LeNet's in both readings of the risk."""
    check_where(scale, seed)
    for dataset, at in RECIPES:
        if at == scale:
            both = dataset in ("digits", "mnist")
            for mixed in (False, True) if both else (False,):
                for activation, bits in ACTIVATIONS:
                    yield network(dataset, activation, bits, seed=seed, scale=scale, mixed=mixed)


def other_networks(scale: str, seed: int) -> Iterator[ActivationNetwork]:
    """Beside the tables, for seed 0: without adversarial training, and other readings of the paper.

    The readings are of networks trained on clean and adversarial examples mixed: those trained on
    adversarial examples alone often collapse, and then no difference between readings shows.
    """
    check_where(scale, seed)
    if seed or scale == "workstation":
        return
    for base in networks(scale, seed):
        if base.training.clean_weight:
            continue
        if base.width is not None:
            if base.activation != "dynamic":
                yield undefended(base)
        elif scale != "paper":
            what = base.dataset, base.activation, base.bits
            yield from readings(network(*what, seed=seed, scale=scale, mixed=True))


def informed_networks(scale: str, seed: int) -> Iterator[ActivationNetwork]:
    """The six quantised networks of Table 1 against an attack that knows them, for seed 0."""
    check_where(scale, seed)
    dataset = "digits" if scale == "smoke" else "mnist"
    if not seed and (dataset, scale) in RECIPES:
        for activation, bits in ACTIVATIONS[1:]:
            yield informed(dataset, activation, bits, seed=seed, scale=scale)


# --- Tables 1 and 2, Figs. 2 and 3 ----------------------------------------------------------------

TABLE_IMAGES = {("patterns", "smoke"): 100, ("cifar10", "laptop"): 1_000}  # else all
TABLE_BATCH = 125
EXAMPLES, FEATURES = 10, 1_000


def table_attacks(base: ActivationNetwork) -> dict[str, Attack | None]:
    """{condition: attack}, None for clean images."""
    pgd = PGD(8, 2, 7) if base.width is not None else _LONG
    return {"clean": None, "fgsm": FGSM(pgd.eps_255), "pgd": pgd}


def table(base: ActivationNetwork) -> dict[str, Measurement]:
    """What Tables 1 and 2 print of a network, and what figures show of it."""
    images = TABLE_IMAGES.get((base.dataset, base.scale))
    attacks = table_attacks(base)
    options = {"network": base, "batch": TABLE_BATCH, "seed": base.seed}
    suite: dict[str, Measurement] = {
        name: Evaluation(name=name, attack=attack, images=images, **options)
        for name, attack in attacks.items()
    }
    shown = {"attacks": attacks, "shown": EXAMPLES, "images": images}
    suite["examples"] = AttackedImages(name="examples", **shown, **options)
    if base.width is not None:
        few = min(FEATURES, images or FEATURES)
        maps = True if base.seed == 0 else None
        suite["features"] = Features(
            name="features", attack=attacks["pgd"], maps=maps, images=few, **options
        )
    return suite


# --- The trial ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How much the trial takes on. many, few, noisy, walkers: images under most attacks, under
    the dear ones, under noise, under HopSkipJump. samples: of NES. draws: of noise. examined,
    binarised: images of the diagnostics."""

    many: int
    few: int
    noisy: int
    walkers: int
    steps: int = 100
    long: int = 1_000
    restarts: tuple[int, ...] = (5, 20)
    samples: tuple[int, ...] = (20, 100)
    queries: int = 5_000
    walk: int = 20
    draws: int = 1_000
    auto_steps: int = 100
    auto_queries: int = 5_000
    examined: int = 100
    binarised: int = 50

    def __post_init__(self) -> None:
        check_fields(self)


BUDGETS = {
    ("digits", "smoke"): Budget(
        20, 8, noisy=20, walkers=4, steps=10, long=20, restarts=(2,), samples=(4,), queries=50,
        walk=2, draws=20, auto_steps=10, auto_queries=50, examined=10, binarised=4,
    ),
    ("mnist", "laptop"): Budget(500, 100, noisy=500, walkers=100),
    ("mnist", "paper"): Budget(2_000, 500, noisy=2_000, walkers=500, examined=500, binarised=200),
    ("cifar10", "laptop"): Budget(500, 100, noisy=500, walkers=100),
    ("cifar10", "workstation"): Budget(500, 200, noisy=500, walkers=100),
    ("cifar10", "paper"): Budget(
        2_000, 1_000, noisy=500, walkers=1_000, samples=(20, 100, 500), walk=64, draws=10_000,
        examined=500, binarised=200,
    ),
}  # fmt: skip
BUDGETS["patterns", "smoke"] = BUDGETS["digits", "smoke"]
TRIAL_BATCH = 250


def rules(base: ActivationNetwork) -> dict[str, dict]:
    """{name: backward rule} of the trial's ladder."""
    if base.activation == "relu":
        return {"own": {}}
    return {
        "zero": {"backward": "zero"},
        "straight_through": {"backward": "straight_through"},
        "tanh": {"backward": "tanh"},
        **{f"sigmoid-{t}": {"backward": "sigmoid", "temperature": float(t)} for t in (1, 5, 10)},
    }


def main_attack(base: ActivationNetwork) -> AdaptivePGD:
    """The attack that the diagnostics examine; the trial's others vary it."""
    eps = table_attacks(base)["pgd"].eps_255
    rule = {} if base.activation == "relu" else MAIN_RULE
    steps = BUDGETS[base.dataset, base.scale].steps
    return AdaptivePGD(eps_255=eps, step_255=eps / 4, steps=steps, **rule)


def trial_attacks(base: ActivationNetwork) -> dict[str, tuple[Attack | None, int]]:
    """{name: (attack, images)}: an attacker who knows more and more, the dearest last by worth."""
    size, tables = BUDGETS[base.dataset, base.scale], table_attacks(base)
    quantized, strong = base.activation != "relu", main_attack(base)
    eps, many, few = strong.eps_255, size.many, size.few
    own = {"eps_255": eps, "step_255": tables["pgd"].step_255, "steps": tables["pgd"].steps}
    plan: dict[str, tuple[Attack | None, int]] = {"clean": (None, many)}
    plan |= {f"table/{n}": (a, many) for n, a in tables.items() if a is not None}
    for name, rule in rules(base).items():
        plan[f"rule/{name}"] = AdaptivePGD(**own, **rule), many
    plan["main"] = strong, many
    plan["steps/twice"] = replace(strong, steps=2 * size.steps), many
    for steps in (7, 20):
        plan[f"steps/{steps}"] = replace(strong, steps=steps), many
    plan["step/2"] = replace(strong, step_255=2.0), many
    for loss in ("margin", "dlr"):
        plan[f"loss/{loss}"] = replace(strong, loss=loss), many
    plan["scaled"] = replace(strong, scaled=True), many
    if quantized:
        plain = replace(strong, backward="straight_through", temperature=None)
        plan["scaled/straight_through"] = replace(plain, scaled=True), many
    for share in (0, 0.25, 0.5, 2):
        at = {"eps_255": eps * share, "step_255": eps * share / 4}
        plan[f"eps/{share:g}"] = replace(strong, **at), many
    plan["eps/unbounded"] = replace(strong, eps_255=255.0, step_255=255 / 4), many
    plan["noise"] = Noise(eps_255=eps, draws=size.draws), size.noisy
    auto = AutoAttack(eps_255=eps, steps=size.auto_steps, queries=size.auto_queries)
    plan["autoattack"] = replace(auto, backward="straight_through") if quantized else auto, few
    if quantized:
        plan["autoattack/sigmoid"] = replace(auto, **MAIN_RULE), few
    plan["square"] = Square(eps_255=eps, queries=size.queries), few
    for restarts in size.restarts:
        plan[f"restarts/{restarts}"] = replace(strong, restarts=restarts, loss="margin"), many
    for samples in size.samples:
        query = {"step_255": eps / 8, "steps": 20, "samples": samples, "sigma_255": eps / 8}
        plan[f"nes/{samples}"] = NES(eps_255=eps, **query), few
    plan["hopskipjump"] = HopSkipJump(eps_255=eps, steps=size.walk), size.walkers
    plan["steps/long"] = replace(strong, steps=size.long), few
    return plan


def trial(base: ActivationNetwork) -> dict[str, Measurement]:
    """The network asked one image at a time, under all that is known of its quantisers."""
    size = BUDGETS[base.dataset, base.scale]
    options = {"network": base, "view": OneByOne(), "batch": TRIAL_BATCH, "seed": base.seed}
    suite: dict[str, Measurement] = {}
    for name, (attack, images) in trial_attacks(base).items():
        one = Evaluation(name=name, attack=attack, images=images, **options)
        if one not in suite.values():  # at a radius of 8, eps / 4 is a step of 2
            suite[name] = one
    strong = main_attack(base)
    if base.control is not None:
        # The whole walk, not to the first point that the other network gets wrong: that hardly
        # crosses over.
        walk = PGD(strong.eps_255, strong.eps_255 / 10, size.steps)
        other = {"source": base.control, "images": size.many}
        suite["transfer"] = Evaluation(name="transfer", attack=walk, **other, **options)
    pgd = table_attacks(base)["pgd"]
    own = AdaptivePGD(eps_255=pgd.eps_255, step_255=pgd.step_255, steps=pgd.steps)
    suite["diagnostics"] = Diagnostics(
        name="diagnostics",
        attacks={"own": own, "main": strong},
        images=size.examined,
        binarised=size.binarised,
        label_leaking=True,
        **options,
    )
    return suite


def file(base: ActivationNetwork) -> dict[str, Measurement]:
    """The main attack where its images must be such as a file can hold, in every step."""
    size, strong = BUDGETS[base.dataset, base.scale], replace(main_attack(base), file="uint8")
    again = replace(strong, restarts=size.restarts[0], loss="margin")
    options = {"network": base, "view": OneByOne(), "batch": TRIAL_BATCH, "seed": base.seed}
    return {
        name: Evaluation(name=name, attack=attack, images=images, **options)
        for name, attack, images in (
            ("file/main", strong, size.many),
            ("file/restarts", again, size.few),
        )
    }


def shown(base: ActivationNetwork) -> dict[str, Measurement]:
    """The first test images under the trial's main attack, for a figure."""
    attacks = {"clean": None, "main": main_attack(base)}
    few = {"shown": EXAMPLES, "images": EXAMPLES, "batch": EXAMPLES}
    options = {"network": base, "view": OneByOne(), "seed": base.seed}
    return {"attacked": AttackedImages(name="attacked", attacks=attacks, **few, **options)}


# --- Tables 3 and 5: the smallest perturbations ---------------------------------------------------

H_255 = {"1e-4": 0.0255, "1e-3": 0.255, "1/255": 1.0, "2/255": 2.0, "4/255": 4.0, "8/255": 8.0}
NORM_ATTACKS = {
    "smoke": (
        CarliniWagner(steps=10, search_steps=2, lr=0.05, initial_c=1.0),
        4,
        ZOO(300, 1, 128, 1.0, lr=0.06, initial_c=100.0),
        2,
    ),
    "laptop": (
        CarliniWagner(steps=200, search_steps=6, lr=0.01, initial_c=0.1),
        100,
        ZOO(8_000, 1, 128, 1.0, lr=0.06, initial_c=100.0),
        100,
    ),
    "paper": (
        CarliniWagner(steps=1_000, search_steps=9, lr=0.01, initial_c=0.01),
        1_000,
        ZOO(50_000, 2, 128, 1.0, lr=0.02, initial_c=10.0),
        200,
    ),
}
NORM_ATTACKS["workstation"] = NORM_ATTACKS["laptop"]


def norms(base: ActivationNetwork) -> dict[str, Measurement]:
    """C&W and DDN through every rule; ZOO at every step width, on networks trained on adversarial
    examples."""
    cw, cw_images, zoo, zoo_images = NORM_ATTACKS[base.scale]
    options = {"network": base, "view": OneByOne(), "batch": 100, "seed": base.seed}
    known = {"own": {}} if base.activation == "relu" else {"own": {}, "sigmoid": MAIN_RULE}
    suite: dict[str, Measurement] = {}
    for kind, attack in (("cw", cw), ("ddn", DDN(cw.steps))):
        for rule, how in known.items():
            name = f"{kind}/{rule}"
            suite[name] = Norms(name=name, attack=attack, images=cw_images, **how, **options)
    if base.training.attack is not None:
        for width, h_255 in H_255.items():
            attack = replace(zoo, h_255=h_255)
            name = f"zoo/{width}"
            suite[name] = Norms(name=name, attack=attack, images=zoo_images, **options)
    return suite


# --- Table 6: substitutes -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Substitute(Network):
    """A network with ReLU that learns the labels which its target gives to the training images.

    The augmented copies of an image keep the label that the target gives to the image itself.

    Args:   target: whose labels. architecture, width: of the substitute.
    Source: Papernot et al. 2017; DQA, section 6.
    """

    target: ActivationNetwork
    architecture: Literal["vgg16", "alexnet"]
    width: int

    kind: ClassVar[str] = "substitute"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "width", least=1, most=4_096)

    paper: ClassVar[str] = "dqa"

    @property
    def cell(self):
        return f"{self.target.cell}-{self.architecture}"

    def build(self):
        make = getattr(models, self.architecture)
        return seeded_build(lambda: make(width=self.width), self.seed, "substitute")

    def needs(self):
        return (self.target,)

    def labels(self, dataset, trained):
        return answers(trained[self.target], dataset.x_train[: self.train_images])

    @property
    def macs(self):
        return {"vgg16": 313e6, "alexnet": 40e6}[self.architecture] * (self.width / 64) ** 2


ARCHITECTURES = ("vgg16", "alexnet")
_LR = {"vgg16": 0.1, "alexnet": 0.01}  # AlexNet has no batch normalisation and would diverge
_EPOCHS = {"smoke": 1, "laptop": 15, "paper": 30}


def substitute(target: ActivationNetwork, architecture: str) -> Substitute:
    """A substitute for one target, as wide for its kind as the target is, at its scale.

    Raises: ValueError: an unknown architecture, or a target that is no ResNet.
    """
    of_kind("target", target, ActivationNetwork)
    choice("architecture", architecture, Literal["vgg16", "alexnet"])
    if target.width is None or target.scale not in _EPOCHS:
        raise ValueError(f"{target.slug} has no substitutes; they are for ResNets of Table 2")
    training = Settings(
        epochs=_EPOCHS[target.scale],
        optimizer="sgd",
        lr=_LR[architecture],
        weight_decay=5e-4,
        schedule="one_cycle",
        augment=True,
        autocast=True,
    )
    where = {n: getattr(target, n) for n in ("dataset", "scale", "seed", "train_images", "width")}
    return Substitute(target=target, architecture=architecture, training=training, **where)


def transfer(base: Substitute) -> dict[str, Measurement]:
    """Attacks that know the true labels, made on the substitute and shown to both networks."""
    images = TABLE_IMAGES.get((base.dataset, base.scale))
    options = {"images": images, "batch": TABLE_BATCH, "seed": base.seed}
    suite: dict[str, Measurement] = {}
    for name, attack in table_attacks(base.target).items():
        source = None if attack is None else base
        for who, judge, seen in (("substitute", base, None), ("defense", base.target, source)):
            shown = {"name": f"{base.architecture}/{who}/{name}", "attack": attack, "source": seen}
            suite[f"{who}/{name}"] = Evaluation(network=judge, **shown, **options)
    both = {"network": base.target, "other": base}
    name = f"{base.architecture}/agreement"
    return suite | {"agreement": Agreement(name=name, **both, **options)}

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reproduce import data, experiments, grids, results, storage, trials
from reproduce.attacks import (
    FGSM,
    NES,
    PGD,
    AdaptivePGD,
    AutoAttack,
    HopSkipJump,
    Noise,
    Square,
    perturb,
)
from reproduce.evaluation import batch_seed, correct
from reproduce.experiments import NoWeights, run, trained
from reproduce.grids import configuration, double_quantization, dqa, quantised
from reproduce.quantizers import (
    DynamicQuantizer,
    FixedQuantizer,
    filter_radius,
    linear_quantize,
)
from reproduce.results import hits
from reproduce.training import Interrupted
from reproduce.trial_records import ALL
from reproduce.trials import Condition, DQATrial, trial

pytestmark = pytest.mark.usefixtures("folders")

SMALL = PGD(76.5, 38.0, 2)


def tiny(activation: str = "fixed", bits: int | None = 1) -> grids.DQA:
    """Six training steps."""
    full = dqa("digits", activation, bits, 0, "smoke")
    training = replace(
        full.training, epochs=2, clean_epochs=1, ramp_epochs=0, batch_size=16, attack=SMALL
    )
    attacks = {"clean": None, "fgsm": FGSM(76.5), "pgd": SMALL}
    return replace(
        full, train_images=48, test_images=24, eval_batch=10, training=training, attacks=attacks
    )


def tiny_double(bits: int = 2, dithered: bool = True) -> grids.DoubleQuantization:
    full = double_quantization(bits, dithered, 0, "smoke")
    return replace(
        full,
        train_images=16,
        test_images=4,
        attacked_images=2,
        training=replace(full.training, epochs=1, batch_size=8),
        attack=replace(full.attack, steps=1, step_255=8),
    )


OWN = AdaptivePGD(eps_255=20, step_255=5, steps=3)


def small(base: grids.DQA, batch: int = 5) -> DQATrial:
    """Four conditions of two or three batches each."""
    conditions = {
        "clean": Condition(images=15),
        "main": Condition(attack=OWN, images=15),
        "noise": Condition(attack=Noise(eps_255=20, draws=3), images=10),
        "transfer": Condition(attack=OWN, images=10, sees="twin"),
    }
    if base.activation == "relu":
        del conditions["transfer"]
    return DQATrial(
        base=base, conditions=conditions, batch=batch, main=OWN, own=OWN, examined=4, planted=2
    )


@pytest.fixture(scope="session")
def _trained(tmp_path_factory) -> tuple[Path, dict]:
    """A folder in which the networks of small(tiny()) are trained, and the trial's metrics."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRODUCE_RESULTS", str(folder / "based" / "results"))
        patch.setenv("REPRODUCE_CACHE", str(folder / "based" / "cache"))
        for e in small(tiny()).base, small(tiny()).twin():
            run(e)
        shutil.copytree(folder / "based", folder / "whole")
        patch.setenv("REPRODUCE_RESULTS", str(folder / "whole" / "results"))
        patch.setenv("REPRODUCE_CACHE", str(folder / "whole" / "cache"))
        return folder / "based", run(small(tiny())).metrics


@pytest.fixture
def based(_trained, folders) -> DQATrial:
    """A trial whose networks are trained."""
    shutil.copytree(_trained[0], folders, dirs_exist_ok=True)
    return small(tiny())


@pytest.fixture
def few_images(monkeypatch) -> None:
    smoke = trials._BUDGETS["smoke"] | {"images": (2, 4), "walkers": 3}
    monkeypatch.setitem(trials._BUDGETS, "smoke", smoke)


class StopAfter:
    """A check_stop that raises from the n-th call on."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted


# --- Keys -----------------------------------------------------------------------------------------

ATTACKS = [
    OWN,
    *(replace(OWN, **{n: v}) for n, v in {
        "eps_255": 21.0, "step_255": 6.0, "steps": 4, "restarts": 2, "loss": "dlr",
        "backward": "tanh", "scaled": True, "samples": 2, "noise_255": 1.0,
    }.items()),
    replace(OWN, backward="tanh", temperature=2.0),
    NES(eps_255=20, step_255=5, steps=3, samples=2, sigma_255=1),
    NES(eps_255=20, step_255=5, steps=3, samples=2, sigma_255=2),
    Noise(eps_255=20, draws=3),
    Noise(eps_255=20, draws=4),
    Square(eps_255=20, queries=3),
    AutoAttack(eps_255=20),
    AutoAttack(eps_255=20, backward="tanh"),
    HopSkipJump(eps_255=20, steps=3),
    FGSM(20.0),
    PGD(20.0, 5.0, 3),
    None,
]  # fmt: skip


def with_condition(**changes) -> DQATrial:
    base = small(tiny())
    conditions = base.conditions | {"main": replace(base.conditions["main"], **changes)}
    return replace(base, conditions=conditions)


def test_any_other_attack_or_setting_is_another_key():
    base = small(tiny())
    variants = [with_condition(attack=a) for a in ATTACKS]
    variants += [
        with_condition(images=14),
        with_condition(sees="twin"),
        with_condition(noise="before"),
        with_condition(noise="after"),
        with_condition(rounding="nearest"),
        replace(base, batch=6),
        replace(base, main=replace(OWN, steps=4)),
        replace(base, own=replace(OWN, steps=4)),
        replace(base, examined=5),
        replace(base, planted=3),
        replace(base, base=replace(base.base, seed=1)),
        replace(base, base=tiny("fixed", 2)),
        replace(base, conditions=dict(list(base.conditions.items())[:-1])),
    ]
    keys = {t.key for t in variants}
    assert len(keys) == len(variants) and base.key in keys and base.base.key not in keys


def test_equal_trials_share_their_key_and_say_what_they_are():
    for base in tiny(), tiny("relu", None), tiny_double(), tiny_double(8, False):
        assert trial(base).key == trial(replace(base)).key
        plain = configuration(trial(base))
        shared = {n: v for n, v in configuration(base).items() if n != "paper"}
        assert {n: v for n, v in plain.items() if n != "trial"} == shared
        assert plain["trial"]["paper"] == base.paper
        assert plain["trial"]["conditions"].keys() == trial(base).conditions.keys()
    whole = with_condition(attack=replace(OWN, eps_255=20.0))
    assert whole.key == small(tiny()).key, "20 is 20.0"


def test_a_trial_stands_beside_its_base():
    e = small(tiny())
    assert (e.name, e.slug) == ("dqa-digits-trial", e.base.slug)
    assert (e.paper, e.dataset, e.scale, e.seed, e.cell) == (
        "dqa", "digits", "smoke", 0, "fixed-1bit"
    )  # fmt: skip


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_experiment_has_one_trial_of_its_own(scale):
    bases = [e for e in grids.grid(scale=scale) if getattr(e, "halftone", None) is None]
    every = list(trials.grid(scale=scale))
    assert [t.base for t in every] == bases
    assert len({t.key for t in every} | {e.key for e in bases}) == 2 * len(bases)
    assert [t.base for t in trials.grid("dqa", scale, 4)] == list(grids.grid("dqa", scale, 4))


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_a_trial_holds_what_its_reader_asks_for(scale):
    for t in trials.grid(scale=scale, seed=0):
        assert next(iter(t.conditions)) == "clean" and t.conditions["clean"].attack is None
        assert all(c.images <= t.conditions["clean"].images for c in t.conditions.values())
        twin = t.twin()
        assert all(c.sees != "twin" for c in t.conditions.values()) == (twin is None)
        if t.paper != "dqa":
            assert twin is None or (twin.cell, twin.seed) == ("8bit", t.seed)
            continue
        assert twin is None or (twin.cell, twin.seed) == (
            "relu" + ("-mixed" if t.cell.endswith("-mixed") else ""), t.seed
        )  # fmt: skip
        assert {"main", "steps/twice", "eps/0", "noise", "square"} <= t.conditions.keys()
        attacked = [(c.attack, c.images, c.sees) for c in t.conditions.values()]
        assert all(attacked.count(one) == 1 for one in attacked), "nothing is measured twice"
        assert t.limit_s == (1200 if (t.scale, t.dataset) == ("paper", "cifar10") else None)
        for name, c in t.conditions.items():
            full = c.attack is None or c.attack.eps_255 == t.base.attacks["pgd"].eps_255
            assert full or name.startswith("eps/"), "the union is at one radius"
            assert name in ("clean",) or name.startswith((*ALL, "eps/"))


def test_more_images_steps_and_restarts_are_more_work():
    base = with_condition()
    more = [
        with_condition(images=30),
        with_condition(attack=replace(OWN, steps=4)),
        with_condition(attack=replace(OWN, restarts=2)),
        with_condition(attack=AutoAttack(eps_255=20)),
    ]
    assert all(trials.work(t) > trials.work(base) > 0 for t in more)


# --- A whole smoke trial of each paper ------------------------------------------------------------


def assert_counts_are_bits(t, record) -> None:
    assert record.metrics.keys() == t.conditions.keys()
    for name, c in t.conditions.items():
        bits = hits(record, name)
        assert record.metrics[name] == {"correct": int(bits.sum()), "total": c.images}
        packed = record.arrays[f"correct/{name}"]
        assert [bool(packed[i // 8] >> (7 - i % 8) & 1) for i in range(c.images)] == bits.tolist()


def test_a_dqa_trial_runs_end_to_end_and_a_second_call_does_nothing(monkeypatch, few_images):
    t = trial(tiny())
    record = run(t)
    assert [r.name for r in results.records()] == ["dqa-digits"] * 2 + ["dqa-digits-trial"]
    assert {r.key for r in results.records()} == {t.key, t.base.key, t.twin().key}
    assert_counts_are_bits(t, record)
    assert record.curves == {} and record.error is None and record.wall_s > 0
    assert record.experiment == configuration(t)
    assert record.weights_sha256 == experiments.load(t.base).weights_sha256
    kinds = {n.split("/")[0] for n in record.arrays}
    assert kinds == {"correct", "flags", "zero_gradients", "loss", "false_label", "planted"}
    assert len(record.arrays["loss/main"]) == t.main.steps + 1
    assert record.arrays["false_label/own"].shape == (t.examined,)
    assert record.arrays["planted/valid"].shape == (t.planted,)
    for name, c in t.conditions.items():
        if isinstance(c.attack, AdaptivePGD) and c.sees == "itself":
            below = hits(record, "clean")[: c.images]
            assert (hits(record, name) <= below).all(), "an adaptive attack repairs no image"
    monkeypatch.setattr(experiments, "_run", None)
    assert run(t).created == record.created


def test_a_double_quantization_trial_runs_end_to_end(few_images):
    t = trial(tiny_double())
    record = run(t)
    assert {r.name for r in results.records()} == {
        "double-quantization-patterns", "double-quantization-patterns-trial"
    }  # fmt: skip
    assert {r.slug for r in results.records()} == {t.base.slug, t.twin().slug}
    assert_counts_are_bits(t, record)
    clean = hits(record, "clean")
    for name in ("after/2", "after/4", "after/8", "after/16", "after/inside", "after/nearest"):
        assert np.array_equal(hits(record, name), clean), "inside the filter radius"
    assert filter_radius(2) == t.conditions["after/inside"].attack.eps_255


# --- What each condition measures -----------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> list:
    """What `correct` was asked, in its order; it calls every image right."""
    calls = []

    def watched(model, images, labels, attack=None, **options):
        calls.append((model, images, labels, attack, options))
        return torch.ones(len(images), dtype=torch.bool)

    monkeypatch.setattr(trials, "correct", watched)
    return calls


def test_a_dqa_network_is_asked_one_image_at_a_time(asked):
    t, dataset = replace(small(tiny()), base=replace(tiny(), seed=3)), data.load("digits")
    model, twin, stop = t.base.model(), t.twin().model(), StopAfter(99)
    jobs = t.evaluations(model, twin, dataset, stop)
    assert asked == [] and list(jobs) == list(t.conditions)
    for job in jobs.values():
        job()
    for (network, x, y, attack, options), c in zip(asked, t.conditions.values(), strict=True):
        layers = [m for m in network.modules() if isinstance(m, FixedQuantizer)]
        assert len(layers) == 4 and {m.maximum for m in layers} == {"image"}
        assert torch.equal(x, dataset.x_test[: c.images]) and attack == c.attack
        assert torch.equal(y, dataset.y_test[: c.images])
        source = options.pop("source_model")
        assert (source is None) == (c.sees != "twin")
        with torch.no_grad():
            few = data.to_float(x[:2])
            assert source is None or torch.allclose(source(few), twin(few), atol=1e-5)
        assert options == {"batch_size": 5, "seed": 3, "check_stop": stop}


def first_inputs(model, x) -> torch.Tensor:
    """What reaches the first activation, and the logits."""
    kept = []
    kinds = torch.nn.ReLU, FixedQuantizer, DynamicQuantizer
    layer = next(m for m in model.modules() if isinstance(m, kinds))
    hook = layer.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    with torch.no_grad():
        logits = model(x)
    hook.remove()
    return kept[0], logits


@pytest.mark.parametrize(("kind", "bits"), [("relu", None), ("fixed", 3), ("dynamic", 2)])
def test_what_is_asked_is_the_network_without_its_batch_normalisation(kind, bits):
    base = replace(dqa("patterns", kind, bits, scale="smoke"), maximum="image")
    model = base.model()
    x = data.to_float(data.load("patterns").x_train[:64])
    with torch.no_grad():
        for _ in range(3):
            model(x)  # running statistics that are not those of a new network
    fast = trial(base).deployed(model.eval())
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fast.modules())
    (early, logits), (expected_early, expected) = (first_inputs(m, x) for m in (fast, model))
    torch.testing.assert_close(early, expected_early, rtol=1e-4, atol=1e-4)
    same = (logits - expected).abs().amax(1) < 1e-3
    assert same.float().mean() > 0.9, "a value beside a threshold may fall on its other side"


def test_the_twin_of_a_resnet_is_asked_without_its_batch_normalisation_too(asked):
    t = trial(dqa("patterns", "dynamic", 1, scale="smoke"))
    jobs = t.evaluations(t.base.model(), t.twin().model(), data.load("patterns"), StopAfter(99))
    jobs["transfer"]()
    ((network, _, _, _, options),) = asked
    for asked_of in (network, options["source"]):
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in asked_of.modules())


def test_the_column_of_the_sigmoid_is_the_main_attacks_rule():
    t = trial(dqa("mnist", "dynamic", 2))
    shown = t.conditions["rule/sigmoid-5"].attack
    assert (shown.backward, shown.temperature) == (t.main.backward, t.main.temperature)


def test_all_readings_of_the_quantiser_have_one_twin():
    base = tiny("dynamic", 2)
    frozen = replace(base.training, thresholds="clean")
    for other in (replace(base, source="tanh"), replace(base, training=frozen), tiny("fixed", 1)):
        assert small(other).twin() == small(base).twin() == tiny("relu", None)
    assert small(replace(tiny(), maximum="image")).twin() == tiny("relu", None)


def test_an_answer_does_not_depend_on_the_neighbours():
    t = small(tiny("fixed", 2))
    x = data.to_float(data.load("digits").x_test[:20])
    model = t.deployed(t.base.model().eval())
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(i[None]) for i in x])
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize(("bits", "dithered"), [(1, False), (2, True), (8, False)])
def test_noise_comes_before_or_after_dithering_as_the_condition_says(asked, bits, dithered):
    t = trial(tiny_double(bits, dithered))
    dataset = data.load("patterns")
    model = t.base.model().eval()
    twin = None if t.twin() is None else t.base.model().eval()
    jobs = t.evaluations(model, twin, dataset, StopAfter(99))
    ways = {(c.noise, c.sees, c.rounding): n for n, c in t.conditions.items()}
    assert len(ways) == (7 if bits < 8 else 6)
    for name, c in ((n, t.conditions[n]) for n in ways.values()):
        asked.clear()
        jobs[name]()
        ((whole, x, y, attack, options),) = asked
        original = dataset.x_test[: c.images]
        seen = quantised(original, bits, dithered)
        assert attack == c.attack and torch.equal(y, dataset.y_test[: c.images])
        guard = whole[0]
        sent = (seen * 255).round().byte() if c.noise == "after" else original
        assert torch.equal(x, sent)
        rounding = c.rounding or "floor"
        assert (guard.bits, guard.rounding) == (bits, rounding)
        assert guard.dithered == (dithered and c.noise == "before")
        assert torch.equal(guard(sent / 255), linear_quantize(seen, bits, rounding))
        with torch.no_grad():
            expected = model(guard(sent[:2] / 255))
            assert torch.allclose(whole(sent[:2] / 255), expected, atol=1e-3)
            if c.sees != "itself":
                bare = options["source"]
                assert torch.allclose(bare(sent[:2] / 255), model(sent[:2] / 255), atol=1e-3)
        assert (options["source"] is None) == (c.sees == "itself")
        assert {n: options[n] for n in ("batch_size", "seed")} == {"batch_size": 100, "seed": 0}


def test_a_transferred_attack_is_made_on_the_twin_and_judged_by_the_network(based):
    t = based
    record = run(t)
    dataset = data.load("digits")
    model, twin = t.deployed(trained(t.base)), trained(t.twin())
    x, y = data.to_float(dataset.x_test[:10]), dataset.y_test[:10]
    expected = [
        model(perturb(twin, OWN, x[a : a + 5], y[a : a + 5], batch_seed(0, n))).argmax(1)
        for n, a in enumerate((0, 5))
    ]
    assert hits(record, "transfer").tolist() == (torch.cat(expected) == y).tolist()
    clean = correct(model, dataset.x_test[:15], dataset.y_test[:15], batch_size=15)
    assert hits(record, "clean").tolist() == clean.tolist()


# --- Stopped, failed, missing ---------------------------------------------------------------------


@pytest.mark.parametrize("batches", [0, 4, 8, 9, 11, 13])  # the last two: in the sanity checks
def test_a_stopped_trial_keeps_its_finished_conditions(
    folders, monkeypatch, based, _trained, batches
):
    with pytest.raises(Interrupted):
        run(based, check_stop=StopAfter(batches))
    partial = folders / "cache" / "checkpoints" / f"{based.key}.evaluations.safetensors"
    finished = sum(batches >= end for end in (3, 6, 8, 10))
    kept = storage.load_tensors(partial)[0] if partial.exists() else {}
    assert kept.keys() == set(list(based.conditions)[:finished])
    assert experiments.load(based) is None and results.failures() == []
    calls, genuine = [], trials.correct

    def counted(*args, **options):
        calls.append(args)
        return genuine(*args, **options)

    monkeypatch.setattr(trials, "correct", counted)
    resumed = run(based)
    assert len(calls) == 4 - finished and not partial.exists()
    assert resumed.metrics == _trained[1]


@pytest.mark.parametrize(
    ("limit", "kept"),
    [(0, 0), (10, 0), (12, 0), (13, 1), (15, 1), (16, 2)],
)
def test_a_trial_whose_time_is_up_leaves_out_the_dear_attacks_alone(
    monkeypatch, based, _trained, limit, kept
):
    """Each call takes a second: 10 for what is essential, 3 for each dear attack."""
    dear = {
        name: Condition(attack=Noise(eps_255=20, draws=draws), images=10)
        for draws, name in enumerate(("autoattack", "square"), 1)
    }
    timed = replace(based, conditions=dear | based.conditions, limit_s=float(limit))
    seconds = [0.0]

    def tick() -> None:
        seconds[0] += 1

    monkeypatch.setattr(experiments.time, "perf_counter", lambda: seconds[0])
    record = run(timed, check_stop=tick)
    assert {n: c for n, c in record.metrics.items() if n not in dear} == _trained[1]
    assert [n for n in record.metrics if n in dear] == list(dear)[:kept]
    assert experiments.load(timed).metrics == record.metrics, "it ends with what it has"


def test_a_stop_within_the_training_of_the_base_can_be_resumed(folders):
    t = small(tiny("relu", None))
    with pytest.raises(Interrupted):
        run(t, check_stop=StopAfter(2))
    assert results.records() == []
    assert {r.key for r in (run(t), experiments.load(t.base))} == {t.key, t.base.key}


def breaks(*_args, **_options):
    raise ArithmeticError("it broke")


def test_a_failed_trial_is_kept_as_failed_and_its_base_untouched(monkeypatch, folders, based):
    def files():
        return {
            f: f.read_bytes()
            for f in folders.rglob("*")
            if f.is_file() and based.base.key in f.name and f.suffix != ".lock"
        }

    before = files()
    assert len(before) == 3, "record, arrays, weights"
    with monkeypatch.context() as patch:
        patch.setattr(trials.diagnostics, "binarization_test", breaks)
        with pytest.raises(ArithmeticError, match="it broke"):
            run(based)
    (failure,) = results.failures()
    assert failure.error == "ArithmeticError: it broke" and failure.name == "dqa-digits-trial"
    assert failure.key == based.key and failure.metrics == {} and failure.arrays == {}
    assert files() == before and experiments.load(based) is None
    assert run(based).error is None


def test_a_base_that_fails_is_its_own_failure_and_not_the_trial_s(monkeypatch):
    monkeypatch.setattr(experiments, "train", breaks)
    with pytest.raises(ArithmeticError):
        run(small(tiny()))
    assert [(r.name, r.key) for r in results.failures()] == [("dqa-digits", tiny().key)]


def test_without_the_weights_of_its_base_a_trial_says_so_and_is_no_failure(based):
    file = experiments.weights_files(based.base)[1]
    file.unlink()
    with pytest.raises(NoWeights, match=f"dqa-digits {based.slug}: put them at {file}") as caught:
        run(based)
    assert "\n" not in str(caught.value) and results.failures() == []


def test_with_other_weights_of_its_base_a_trial_is_refused_and_is_no_failure(based):
    file = experiments.weights_files(based.base)[1]
    storage.save_tensors(file, {n: t + 1 for n, t in tiny().model().state_dict().items()}, {})
    with pytest.raises(ValueError, match="not what the record names"):
        run(based)
    assert results.failures() == []

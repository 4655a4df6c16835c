"""Keys: the record of everything that was run is found by them, so that they may never move.

`python tests/test_keys.py` writes keys.csv anew, after a change that is meant.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest

from reproduce import records
from reproduce.attacks import FGSM, PGD, AdaptivePGD, HopSkipJump, Noise, Square
from reproduce.papers import double, dqa, registry
from reproduce.papers.units import Evaluation, Network, OneByOne
from reproduce.training import Settings

PINNED = Path(__file__).with_name("keys.csv")
COLUMNS = ("folder", "suite", "measurements", "digest")

# Measured once of one network at the paper's scale, and in no suite.
EXTRAS = {
    ("dqa-mnist/paper-dynamic-1bit-mixed-seed0", "nes/500"),
    ("dqa-mnist/paper-dynamic-1bit-mixed-seed0", "noise"),
}


@cache
def every() -> tuple[Network, ...]:
    return tuple(registry.networks())


def rows() -> Iterator[tuple[str, str, int, str]]:
    """A row for each network and for each of its suites."""
    for network in every():
        yield network.folder, "network", 1, network.key
        for suite, members in registry.suites(network).items():
            pairs = "".join(f"{m.folder} {m.name} {m.key}\n" for m in members.values())
            digest = hashlib.sha256(pairs.encode()).hexdigest()[:16]
            yield network.folder, suite, len(members), digest


def written() -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([COLUMNS, *rows()])
    return out.getvalue()


def named(text: str) -> dict[tuple[str, str], tuple]:
    """{(folder without its key, suite): what is pinned}."""
    _, *lines = csv.reader(text.splitlines())
    found = {(folder[:-9], suite): (folder, *rest) for folder, suite, *rest in lines}
    assert len(found) == len(lines)
    return found


def test_no_network_and_no_suite_has_moved():
    pinned, now = named(PINNED.read_text()), named(written())
    moved = [" ".join(name) for name in pinned if name in now and pinned[name] != now[name]]
    assert not moved, f"{len(moved)} have moved: {moved[:5]}"
    gone = [" ".join(name) for name in pinned if name not in now]
    assert not gone, f"{len(gone)} are gone: {gone[:5]}"
    new = [" ".join(name) for name in now if name not in pinned]
    assert not new, f"{len(new)} are not pinned yet, see above: {new[:5]}"


def test_keys_and_folders_are_unique():
    networks = every()
    assert len({n.key for n in networks}) == len({n.folder for n in networks}) == len(networks)
    for network in networks:
        members = registry.measurements(network)
        assert len({m.key for m in members}) == len(members)
        files = {(m.folder, records.slug(m.name), m.key) for m in members}
        assert len(files) == len(members)


# --- What is committed ----------------------------------------------------------------------------


@cache
def committed() -> tuple[records.Record, ...]:
    """All that stand in results/; reading them checks their digests. Not smoke tests: git ignores
    those, and they are anybody's own, of any branch."""
    return tuple(r for r in records.every() if not r.folder.partition("/")[2].startswith("smoke-"))


@pytest.fixture
def results(monkeypatch) -> Path:
    monkeypatch.delenv("REPRODUCE_RESULTS", raising=False)
    return records.root()


def test_every_committed_record_is_one_of_the_registry(results):
    known = {(n.folder, n.key): {n.name} for n in every()}
    for network in every():
        for members in registry.suites(network).values():
            for m in members.values():  # two suites may ask one thing by two names
                known.setdefault((m.folder, m.key), set()).add(records.slug(m.name))
    unknown = set()
    for record in committed():
        if (names := known.get((record.folder, record.key))) is None:
            unknown.add((record.folder[:-9], record.name))
        else:
            assert record.name in names, record.path
    assert committed() and unknown == {(f, records.slug(n)) for f, n in EXTRAS}


def test_every_committed_measurement_is_of_the_weights_of_the_network_beside_it(results):
    networks = {r.folder: r for r in committed() if r.name == "network" and r.error is None}
    for record in committed():
        if record.name != "network" and record.error is None:
            assert record.weights_sha256 == networks[record.folder].weights_sha256, record.path


def test_results_hold_no_folder_and_no_file_without_a_record(results):
    folders = {r.folder for r in committed()}
    known = {r.path for r in committed()}
    known |= {r.path.with_suffix(".npz") for r in committed() if r.arrays}
    for file in (f for f in results.glob("*/*/*") if not f.parts[-2].startswith("smoke-")):
        assert f"{file.parts[-3]}/{file.parts[-2]}" in folders, file
        assert file in known or file.name == "weights.safetensors", file
    for folder in (f for f in results.glob("*-*/*") if not f.name.startswith("smoke-")):
        assert folder.is_dir() and any(folder.iterdir()), folder


# --- What a key depends on ------------------------------------------------------------------------


def network(**changes) -> dqa.ActivationNetwork:
    made = dqa.network("digits", "dynamic", 2, scale="smoke")
    return replace(made, **changes)


def evaluation(**changes) -> Evaluation:
    shared = {"network": network(), "name": "a", "batch": 5, "seed": 0}
    return Evaluation(**shared | changes)


def test_a_key_is_the_start_of_the_sha256_of_sorted_json():
    plain = json.dumps(records.configuration(network()), sort_keys=True, separators=(",", ":"))
    assert network().key == hashlib.sha256(plain.encode()).hexdigest()[:8]


def test_a_configuration_names_kinds_and_stands_for_its_network_by_the_key():
    attack = AdaptivePGD(eps_255=8, step_255=2, steps=3)
    found = records.configuration(evaluation(attack=attack, images=7))
    kinds = {found["kind"], found["attack"]["kind"], found["view"]["kind"]}
    assert kinds == {"evaluation", attack.kind, "as-trained"}
    assert found["network"] == network().key and found["images"] == 7
    assert {"name", "source"}.isdisjoint(found), "a name is no configuration, None is left out"


def renamed(unit):
    """The same values in a class of another name, with other annotations, that can be called."""
    old = type(unit)
    new = type("Renamed", (old,), {"__call__": lambda self: 1, "__doc__": "another"})
    new.__annotations__ = {f.name: "object" for f in fields(old)}
    return new(**{f.name: getattr(unit, f.name) for f in fields(unit)})


@pytest.mark.parametrize("attack", [PGD(8, 2, 3), FGSM(8), Noise(eps_255=8, draws=2)])
def test_a_key_depends_on_no_class_name_no_annotation_and_nothing_that_can_be_called(attack):
    assert renamed(network()).key == network().key
    plain = evaluation(attack=attack, view=OneByOne())
    assert evaluation(attack=renamed(attack), view=renamed(OneByOne())).key == plain.key
    training = network().training
    inside = replace(training, attack=renamed(training.attack))
    assert network(training=renamed(inside)).key == network().key
    assert renamed(plain).key == plain.key


def test_whole_numbers_are_the_same_as_int_and_as_float():
    one, other = (evaluation(attack=PGD(eps, 2, 3)) for eps in (8, 8.0))
    assert one.key == other.key != evaluation(attack=PGD(8.5, 2, 3)).key
    assert records.configuration(other)["attack"]["eps_255"] == 8


def test_a_further_optional_field_leaves_keys_alone_until_it_says_something():
    further = make_dataclass(
        "Further",
        [("extra", int | None, field(default=None))],
        bases=(dqa.ActivationNetwork,),
        frozen=True,
        kw_only=True,
    )
    values = {f.name: getattr(network(), f.name) for f in fields(network())}
    assert further(**values).key == network().key != further(**values, extra=1).key


def test_a_name_is_no_part_of_a_key():
    assert evaluation(name="b").key == evaluation().key


OTHER_SETTINGS = {
    "epochs": 9, "batch_size": 7, "optimizer": "sgd", "lr": 0.5, "momentum": 0.1,
    "weight_decay": 0.2, "schedule": "constant", "step_epochs": 3, "augment": True,
    "autocast": True, "attack": None, "clean_epochs": 0, "ramp_epochs": 1, "clean_weight": 0.5,
    "thresholds": "clean",
}  # fmt: skip
OTHER_PGD = {
    "eps_255": 1.0, "step_255": 2.0, "steps": 9, "random_start": False, "backward": "tanh",
    "temperature": 2.0,
}  # fmt: skip
OTHER_ADAPTIVE = {
    "eps_255": 21.0, "step_255": 6.0, "steps": 4, "restarts": 2, "loss": "dlr",
    "backward": "tanh", "temperature": 3.0, "scaled": True, "samples": 2, "noise_255": 1.0,
    "file": "uint8",
}  # fmt: skip
SHARED = {"dataset": "mnist", "scale": "paper", "seed": 1, "training": Settings(epochs=1)}
OTHER_DQA = SHARED | {
    "train_images": 47, "activation": "fixed", "bits": 1, "maximum": "image", "source": "tanh",
    "width": 8,
}  # fmt: skip
OTHER_IMAGES = SHARED | {"train_images": 47, "bits": 3, "dithered": False, "halftone": "jjn"}
OTHER_VIEW = {
    "bits": 3, "dithered": False, "noise": "before", "sees": "pipeline", "halftone": "jjn",
    "rounding": "nearest",
}  # fmt: skip


def changed(value, others: dict) -> list:
    """`value` with each of its fields changed alone; `others` must know every field."""
    compared = {f.name for f in fields(value) if f.compare}
    assert others.keys() == compared, f"{type(value).__name__} has another field: say its change"
    assert all(getattr(value, name) != other for name, other in others.items())
    return [replace(value, **{name: other}) for name, other in others.items()]


def all_differ(units: list) -> None:
    assert len({u.key for u in units}) == len(units)


def test_every_field_of_a_network_changes_its_key():
    image = double.network(2, True, scale="smoke")
    all_differ([network(), *changed(network(), OTHER_DQA), image, *changed(image, OTHER_IMAGES)])


def test_every_field_of_a_training_and_of_its_attack_changes_the_key():
    informed = replace(network().training.attack, backward="sigmoid", temperature=5.0)
    base = replace(network().training, epochs=10, attack=informed)
    attacks = changed(informed, OTHER_PGD)
    trainings = [*changed(base, OTHER_SETTINGS), *(replace(base, attack=a) for a in attacks)]
    all_differ([network(training=t) for t in [base, *trainings]])


def test_every_field_of_an_evaluation_its_attack_and_its_view_changes_the_key():
    adaptive = AdaptivePGD(
        eps_255=20, step_255=5, steps=3, samples=3, backward="sigmoid", temperature=5.0
    )
    attacks = [adaptive, *changed(adaptive, OTHER_ADAPTIVE), PGD(20, 5, 3), FGSM(20)]
    attacks += [Square(eps_255=20, queries=3), HopSkipJump(eps_255=20, steps=3), None]
    view = double.Filtered(bits=2, dithered=True, noise="after", sees="network")
    other = network(seed=1)
    units = [evaluation(attack=a) for a in attacks]
    units += [evaluation(view=v) for v in (OneByOne(), view, *changed(view, OTHER_VIEW))]
    units += [evaluation(batch=6), evaluation(images=3), evaluation(seed=1)]
    units += [evaluation(source=other), evaluation(network=other)]
    all_differ(units)


def test_a_measurement_depends_on_its_network_by_key_alone():
    @dataclass(frozen=True, kw_only=True)
    class Stranger(Network):
        key: ClassVar[str] = network().key
        folder: ClassVar[str] = "elsewhere"

    stranger = Stranger(dataset="digits", scale="smoke", seed=0)
    assert evaluation(network=stranger).key == evaluation().key


if __name__ == "__main__":
    PINNED.write_text(written())
    print(f"{PINNED}: {len(written().splitlines()) - 1} rows")

"""Once: from one JSON a run to one a measurement. python migrate.py OLD_RESULTS"""

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from reproduce import attacks, records
from reproduce.papers import double, dqa, registry
from reproduce.papers.units import Evaluation, Norms
from reproduce.records import Record, Run

old_root = Path(sys.argv[1])
index = {}
for network in registry.networks():
    key = network.folder.partition("/")[0], network.slug
    assert key not in index, key
    index[key] = network


def plain(value):
    """An old configuration with the new kinds, without what is None, whole numbers as ints."""
    if isinstance(value, dict):
        new = {n: plain(v) for n, v in value.items() if v is not None}
        if "kind" in new:
            new["kind"] = getattr(attacks, new["kind"]).kind
        return new
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def attack_of(stored):
    if stored is None:
        return None
    options = dict(stored)
    return getattr(attacks, options.pop("kind"))(**options)


counts = Counter()
seconds = [0.0, 0.0]


def put(old, unit, name=None, **what):
    """A new record, or None where the very same is there."""
    run = {n: old[n] for n in ("device", "versions", "commit", "dirty", "created")}
    return Record(
        folder=unit.folder,
        name=name or unit.name,
        configuration=records.configuration(unit),
        dataset=old["dataset"],
        run=Run(wall_s=old["wall_s"], **run),
        weights_sha256=what.pop("weights", old["weights_sha256"]),
        **what,
    ), unit


def bits_of(arrays, metrics, name):
    found = np.unpackbits(arrays[f"correct/{name}"], count=metrics[name]["total"]).astype(bool)
    assert found.sum() == metrics[name]["correct"]
    return found


def same_network(old, network):
    mine = records.configuration(network)
    mine.pop("kind")
    stored = plain(old["experiment"])
    for field in ("attacks", "attack", "attacked_images", "eval_batch", "test_images", "paper", "trial"):
        stored.pop(field, None)
    assert mine == stored, (mine, stored)


def tables(old, arrays, network):
    out = [put(old, network, values=old["curves"])]
    suite = registry.suites(network)["table"]
    named = {n for n, m in suite.items() if isinstance(m, Evaluation)}
    assert named == set(old["metrics"]), (named, set(old["metrics"]))
    for name in sorted(named):
        bits = bits_of(arrays, old["metrics"], name)
        want = suite[name].images or 10_000
        assert len(bits) == want
        out.append(put(old, suite[name], bits=bits))
    if "examples" in suite:
        shown = {n: a for n, a in arrays.items() if n == "labels" or n.startswith(("image/", "prediction/"))}
        out.append(put(old, suite["examples"], arrays=shown))
    if "features" in suite:
        rest = {n: a for n, a in arrays.items() if n.startswith(("first/", "knn/", "silhouette/", "features/", "tsne/"))}
        values = {n: a.item() for n, a in rest.items() if not a.ndim}
        out.append(put(old, suite["features"], values=values, arrays={n: a for n, a in rest.items() if a.ndim}))
    return out


def diagnostics(old, arrays, unit):
    values = {"flags": {}, "zero_gradients": {}, "loss": {}, "binarization": {}}
    for n, a in arrays.items():
        first, _, rest = n.partition("/")
        if first == "flags":
            values["flags"][rest] = bool(a)
        elif first == "zero_gradients":
            attack, _, layer = rest.partition("/")
            values["zero_gradients"].setdefault(attack, {})[layer] = float(a)
        elif first == "loss":
            values["loss"][rest] = a.tolist()
        elif first == "false_label":
            values.setdefault("false_label", {})[rest] = a.tolist()
        elif first == "planted":
            values["binarization"][rest] = a.tolist()
    return put(old, unit, values=values)


def trial(old, arrays, network):
    suite = registry.suites(network)["trial"]
    template = suite["clean" if "clean" in suite else "before/clean"]
    out, planned = [], old["experiment"]["trial"]["conditions"]
    for name in old["metrics"]:
        c = planned[name]
        attack = attack_of(c.get("attack"))
        source = None
        if c["sees"] == "twin":
            source = network.control if isinstance(network, dqa.ActivationNetwork) else network.plain
        if isinstance(network, dqa.ActivationNetwork):
            view = template.view
        elif isinstance(network, double.HardenedNetwork):
            view = double.Whole(sees="network" if c["sees"] == "bare" else "pipeline")
        else:
            sees = "network" if c["sees"] == "bare" else "pipeline"
            view = replace(template.view, noise=c["noise"], sees=sees, rounding=c.get("rounding"))
        one = replace(template, name=name, attack=attack, source=source, view=view, images=c["images"],
                      batch=old["experiment"]["trial"]["batch"])
        if name in suite:
            if one != suite[name]:
                counts["extra"] += 1
                print("extra:", network.folder, name, c)
        else:
            counts["extra"] += 1
            print("extra:", network.folder, name, c)
        bits = bits_of(arrays, old["metrics"], name)
        assert len(bits) == c["images"]
        out.append(put(old, one, bits=bits))
        counts["outcomes"] += 1
    missing = set(suite) - set(old["metrics"]) - {"diagnostics"}
    if missing:
        print("missing:", network.folder, missing)
    if "diagnostics" in suite:
        out.append(diagnostics(old, arrays, suite["diagnostics"]))
    return out


def checks(old, arrays, network):
    suite = registry.suites(network)["checks"]
    out = []
    for name in old["metrics"]:
        c = old["experiment"]["trial"]["conditions"][name]
        assert attack_of(c.get("attack")) == suite[name].attack and suite[name].images == c["images"]
        out.append(put(old, suite[name], bits=bits_of(arrays, old["metrics"], name)))
        counts["outcomes"] += 1
    out.append(diagnostics(old, arrays, suite["diagnostics"]))
    shown = {n: a for n, a in arrays.items() if n == "labels" or n.startswith(("example/", "confidence/"))}
    out.append(put(old, suite["stages"], arrays=shown))
    return out


def norms(old, arrays, network):
    suite = registry.suites(network)["norms"]
    assert set(suite) == set(old["metrics"])
    for name, one in suite.items():
        c = old["experiment"]["trial"]["conditions"][name]
        assert attack_of(c["attack"]) == one.attack and c["images"] == one.images
        assert (c.get("backward"), c.get("temperature")) == (one.backward, one.temperature)
    counts["outcomes"] += len(suite)
    return [put(old, one, norms=arrays[f"norm/{name}"]) for name, one in suite.items()]


def transfer(old, arrays, network):
    out = [put(old, network, values=old["curves"], weights=None)]
    for name, one in registry.suites(network)["transfer"].items():
        weights = None if one.network == network else old["weights_sha256"]
        out.append(put(old, one, bits=bits_of(arrays, old["metrics"], name), weights=weights))
    return out


def convert(file):
    old = json.loads(file.read_text())
    arrays = {}
    if file.with_suffix(".npz").exists():
        with np.load(file.with_suffix(".npz")) as stored:
            arrays = dict(stored)
    base, _, kind = re.fullmatch(r"(.*?-(mnist|cifar10|digits|patterns))(?:-(\w+))?", old["name"]).groups()
    network = index[base, old["slug"]]
    if kind != "substitutes":
        same_network(old, network)
    how = {None: tables, "trial": trial, "checks": checks, "norms": norms, "substitutes": transfer}[kind]
    made = how(old, arrays, network)
    new = []
    for record, unit in made:
        there = records.find(unit)
        if there is not None:
            assert np.array_equal(there.bits, record.bits) and there.values == record.values and there.configuration == record.configuration
            counts["duplicates " + str(kind)] += 1
        else:
            new.append(record)
    for record in new:
        record.run = Run(**{**vars(record.run), "shared_by": len(new)})
        records.write(record)
        counts[f"written {kind}"] += 1
        seconds[1] += record.run.own_s
    seconds[0] += old["wall_s"]
    counts["read"] += 1
    weights = old_root / "weights" / f"{file.stem[-8:]}.safetensors"
    if weights.exists() and kind is None:
        target = records.root() / network.folder / "weights.safetensors"
        if not target.exists():
            shutil.copyfile(weights, target)
        counts["weights"] += 1


files = sorted(old_root.glob("*/*.json"), key=lambda f: ("-trial" in f.parent.name or "-norms" in f.parent.name or "-checks" in f.parent.name or "-substitutes" in f.parent.name, json.loads(f.read_text())["created"]))
for file in files:
    convert(file)
print(dict(counts), seconds, seconds[0] - seconds[1])

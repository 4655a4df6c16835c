"""Reading the records of DQA's trials: what survives, whether the attacks worked, tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from reproduce.evaluation import collapsed, paired, wilson
from reproduce.figures import checks_table, markdown_table
from reproduce.results import Record, hits, percent

WHITE_BOX = (
    "table/",
    "rule/",
    "main",
    "step/",
    "steps/",
    "loss/",
    "scaled",
    "restarts/",
    "autoattack",
    "cw/",
)
QUERIES = ("square", "nes/", "noise")
BLACK_BOX = (*QUERIES, "hopskipjump", "transfer")
ALL = WHITE_BOX + BLACK_BOX


def union(
    record: Record,
    families: tuple[str, ...] = ALL,
    common: bool = False,
) -> np.ndarray:
    """(N,) bool: which images survive every attack of these families at the full radius.

    Args:    record: of a trial. families: beginnings of condition names. common: only the first
             images, those that all of these attacks saw.
    Returns: over the images of "clean", the most that any condition has; an attack that was run on
             fewer images breaks none of the others.
    """
    standing = hits(record, "clean")
    seen = len(standing)
    for name in record.metrics:
        if name.startswith(families):
            few = hits(record, name)
            standing[: len(few)] &= few
            seen = min(seen, len(few))
    return standing[:seen] if common else standing


def completed(trial: Record, others: Iterable[Record]) -> Record:
    """A trial's record with what other units did to the very same network, as further conditions.

    Of a substitute: "transfer/NETWORK", the PGD that was made on it. Of a trial of norms:
    "cw/RULE", which breaks an image if the l2 norm is within the trial's radius: then no pixel has
    moved by more, and the perturbation lies in the ball of all the others.

    Args: others: records of any units; those of other weights are passed over.
    """
    metrics, arrays = dict(trial.metrics), dict(trial.arrays)
    for r in others:
        if r.weights_sha256 != trial.weights_sha256:
            continue
        found = {}
        if "network" in r.experiment["trial"]:
            found[f"transfer/{r.experiment['trial']['network']}"] = hits(r, "defense/pgd")
        radius = trial.experiment["attacks"]["pgd"]["eps_255"] / 255
        for name, norms in r.arrays.items():
            if name.startswith("norm/cw/"):
                found[name.removeprefix("norm/")] = norms > radius
        for name, bits in found.items():
            bits = bits[: trial.metrics["clean"]["total"]]
            metrics[name] = {"correct": int(bits.sum()), "total": len(bits)}
            arrays[f"correct/{name}"] = np.packbits(bits)
    return replace(trial, metrics=metrics, arrays=arrays)


def main_checks(record: Record) -> dict[str, tuple[bool, str]]:
    """Whether the main attack worked, by its variations and by what is stored beside them.

    Of a DQA trial, or of the checks of Double quantization's pipeline; the rules are in `checks`.
    """
    of = {name: counts["correct"] for name, counts in record.metrics.items()}
    arrays, total = record.arrays, record.metrics["clean"]["total"]
    path = [of[n] for n in ("eps/0", "eps/0.25", "eps/0.5", "main", "eps/2", "eps/unbounded")]
    climb = max(after - before for before, after in itertools.pairwise(path))
    idle = float(arrays["zero_gradients/main/images"])
    random = hits(record, "noise")
    directed = hits(record, "main")[: len(random)].sum()  # noise may have met fewer images
    curve = arrays["loss/main"]
    start, late, high = curve[0], curve[-len(curve) // 10 :].mean(), curve.max()
    found = {
        "ε = 0 changes nothing": (
            np.array_equal(hits(record, "eps/0"), hits(record, "clean")),
            f"{of['eps/0']} and {of['clean']} correct",
        ),
        "accuracy falls as ε grows": (climb <= total / 100, f"at most {max(climb, 0)} more"),
        "a larger ε does more": (
            of["eps/2"] <= of["eps/0.25"] / 2,
            f"{of['eps/0.25']} left at a quarter of the radius, {of['eps/2']} at twice the radius",
        ),
        "unbounded ε leaves nothing": (path[-1] == 0, f"{path[-1]} left"),
        "many steps beat random points": (
            directed <= random.sum() + len(random) / 100,
            f"{directed} left, random points {random.sum()}",
        ),
        "twice the steps change little": (
            abs(of["main"] - of["steps/twice"]) <= total / 100,
            f"{of['main']} and {of['steps/twice']} left",
        ),
        "gradients do not vanish": (idle == 0, f"zero for {idle:.0%} of the images"),
        "the loss rises with the steps": (
            late - start >= 0.1 * abs(start) and late - start >= 0.9 * (high - start),
            f"{start:.2f} to {late:.2f}, at most {high:.2f}",
        ),
        "planted examples are found": _planted(arrays, "main"),
    }
    return {name: (bool(passed), text) for name, (passed, text) in found.items()}


def checks(record: Record) -> dict[str, tuple[bool, str]]:
    """Whether the attacks of a DQA trial worked, by what is stored beside their results.

    Counts may differ by 1 % of the images where two random attacks are compared. Twice the radius
    must leave at most half of what a quarter of it does. The loss must rise by a tenth, and end
    within a tenth of its highest. 95 % of the planted examples that random points miss must be
    found.

    Returns: {check: (passed, what was measured)}; those of the table's own attack end in "own".
    """
    of = {name: counts["correct"] for name, counts in record.metrics.items()}
    total = record.metrics["clean"]["total"]
    blind = {words: _blind(record, families) for words, families in _BLIND.items()}
    return main_checks(record) | {
        "many steps beat one": (
            of["main"] <= of["table/fgsm"] + total / 100,
            f"{of['main']} left, FGSM {of['table/fgsm']}",
        ),
        "white box beats black box on each image": (
            all(missed <= met / 100 for missed, met in blind.values()),
            "; ".join(f"{m} of {n} fall to {words} alone" for words, (m, n) in blind.items() if m)
            or "none falls to black-box attacks alone",
        ),
        "many steps beat one, own": (
            of["table/pgd"] <= of["table/fgsm"] + total / 100,
            f"{of['table/pgd']} left, FGSM {of['table/fgsm']}",
        ),
        "planted examples are found, own": _planted(record.arrays, "own"),
    }


_BLIND = {
    "queries": QUERIES,
    "HopSkipJump": ("hopskipjump",),
    "transfer": ("transfer",),
}


def _blind(record: Record, families: tuple[str, ...]) -> tuple[int, int]:
    """How many images fall to these attacks and to no gradient, of how many that they met.

    AutoAttack counts for neither side: it ends in Square, which sees no gradient.
    """
    if not any(name.startswith(families) for name in record.metrics):
        return 0, 1
    gradient = tuple(f for f in WHITE_BOX if f != "autoattack")
    black = union(record, families, common=True)
    return int((union(record, gradient)[: len(black)] & ~black).sum()), len(black)


def doubtful(record: Record) -> bool:
    """Whether less may be left than the trial says: something is, and its attacks fail a check, or
    some were left out.

    The table's own attack is not asked. A network that collapsed in training has nothing to attack.
    """
    if collapsed(record.metrics):
        return False
    sound = all(passed for name, (passed, _) in checks(record).items() if ", own" not in name)
    whole = sound and not left_out(record)
    return not whole and left(record) > 0


def blunt(record: Record) -> bool:
    """Whether the table's own attack fails a check and leaves something: it may be less then."""
    if collapsed(record.metrics):
        return False
    failed = any(not passed for name, (passed, _) in checks(record).items() if ", own" in name)
    return failed and record.metrics["table/pgd"]["correct"] > 0


def conclude_blunt(trials: Sequence[Record]) -> str:
    """On how many networks the table's own attack fails a check of the trial; an item of a list."""
    alive = [r for r in trials if not collapsed(r.metrics)]
    if not alive:
        return "- **Did the table's attack work?** No trial has been run."
    return (
        f"- **Did the table's attack work?** On {sum(map(blunt, alive))} of {len(alive)} networks "
        "that were tried it fails a check: it misses planted adversarial examples, or leaves more "
        "than one step does."
    )


def marked(name: str, record: Record) -> str:
    """The name of a network, with a dagger where the attacks on it are `doubtful`."""
    return f"{name} †" if doubtful(record) else name


def _planted(arrays: dict[str, np.ndarray], attack: str) -> tuple[bool, str]:
    """Found among those planted examples that random points do not find."""
    hard = arrays["planted/valid"] & ~arrays["planted/random"]
    count, hit = int(hard.sum()), int(arrays[f"planted/{attack}"][hard].sum())
    return count > 0 and hit >= 0.95 * count, f"{hit} of {count}"


# --- Tables ---------------------------------------------------------------------------------------

FAMILIES = {
    "rules": ("rule/",),
    "steps,<br>losses": (
        *("main", "step/", "steps/7", "steps/20", "steps/twice", "loss/", "scaled", "restarts/"),
    ),
    "Auto-<br>Attack": ("autoattack",),
    "black<br>box": ("square", "nes/", "hopskipjump", "noise"),
    "transfer": ("transfer",),
    "C&W": ("cw/",),
}
RULES = {
    "zero": "zero",
    "straight_through": "straight-through",
    "tanh": "tanh",
    "sigmoid-1": "sigmoid, T = 1",
    "sigmoid-5": "T = 5",
    "sigmoid-10": "T = 10",
}
RUNGS = ("clean", "FGSM", "PGD", "best step", "any rule", "all")


def left(record: Record, *families: str) -> float:
    """Percent that survive these attacks, or all; over the images that all of these saw."""
    return 100 * float(union(record, families or ALL, common=True).mean())


def rungs(record: Record) -> list[float]:
    """Accuracy as the attacker learns more, one number for each of RUNGS, over the same images.

    The last is the worst over those attacks that every image met.
    """
    same = "rule/own" if "rule/own" in record.metrics else "rule/straight_through"
    steps = [percent(record, n) for n in ("clean", "table/fgsm", "table/pgd", same)]
    return [*steps, left(record, "table/", "rule/"), left(record, *_on_all(record))]


def sizes(record: Record) -> tuple[int, int]:
    """How many images the dearest attacks saw, and how many the others."""
    return len(union(record, common=True)), record.metrics["clean"]["total"]


def _on_all(record: Record) -> tuple[str, ...]:
    """The attacks that every image met."""
    many = sizes(record)[1]
    return tuple(n for n, c in record.metrics.items() if n.startswith(ALL) and c["total"] == many)


def numbers(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """The accuracy of each network under each family of attacks.

    Args: networks: {name: (record of the trial, record of the network's own table)}.
    """
    few, many = sizes(next(iter(networks.values()))[0])
    met = {n for record, _ in networks.values() for n in record.metrics}
    columns = {t: f for t, f in FAMILIES.items() if any(n.startswith(f) for n in met)}
    titles = []
    for title, families in columns.items():
        count = min(len(union(r, families, common=True)) for r, _ in networks.values())
        titles.append(title if count == many else f"{title}<br>({count})")
    header = [
        "network",
        f"clean<br>({many})",
        f"clean<br>({few})",
        f"all<br>({few})",
        f"all<br>({many})",
        "FGSM",
        "PGD,<br>batch",
    ]
    rows = []
    for name, (record, table) in networks.items():
        batch = 100 * hits(table, "pgd")[:many].mean()
        cells = [percent(record, "table/fgsm"), batch, percent(record, "table/pgd")]
        for families in columns.values():
            # ReLU is what the others' transferred examples are made on.
            met = any(n.startswith(families) for n in record.metrics)
            cells.append(left(record, *families) if met else float("nan"))
        worst = interval(record, ALL), interval(record, _on_all(record))
        shown = [f"{c:.1f}".replace("nan", "–") for c in cells]
        if blunt(record):
            shown[2] += "\u00a0†"
        clean = hits(record, "clean")
        both = (f"{100 * bits.mean():.1f}" for bits in (clean, clean[:few]))
        rows.append([marked(name, record), *both, *worst, *shown])
    return markdown_table([*header, "PGD", *titles], rows)


def by_seed(networks: Mapping[str, Sequence[Record]], control: str) -> str:
    """Every seed under the table's attacks and under all, and how many seeds of the quantised
    networks lie above the control's.

    Args: networks: {name: records of its trials, in the order of the seeds}, the control among
          them. control: the name of the ReLU network.
    """
    few, many = sizes(networks[control][0])
    relu = {r.seed: r for r in networks[control]}
    rows, alive = [], []
    for name, records in networks.items():
        seeds = []
        for r in records:
            shares = [f"{percent(r, n):.1f}" for n in ("clean", "table/fgsm", "table/pgd")]
            shares[2] += "\u00a0†" if blunt(r) else ""
            worst = [f"{left(r):.1f}", f"{left(r, *_on_all(r)):.1f}"]
            cells = [*shares, *(marked(w, r) for w in worst)]
            gone = collapsed(r.metrics)
            seeds.append([f"*{c}*" if gone else c for c in cells])
            if name != control and not gone and r.seed in relu:
                alive.append(r)
        rows.append([name, *("<br>".join(cells) for cells in zip(*seeds, strict=True))])
    header = ["network", "clean", "FGSM", "PGD", f"all<br>({few})", f"all<br>({many})"]

    def span(of: Iterable[float]) -> str:
        found = list(of)
        return f"{min(found):.1f}–{max(found):.1f}"

    if not alive:
        return markdown_table(header, rows)
    own, control_own = (span(percent(r, "table/pgd") for r in of) for of in (alive, relu.values()))
    fair = span(left_beside(r, relu[r.seed]) for r in alive)
    above = sum(_above(r, relu[r.seed]) for r in alive)
    return (
        f"{markdown_table(header, rows)}\n\n"
        f"The {len(alive)} trainings of quantised networks that did not collapse keep {own} % "
        f"under the table's PGD (ReLU {control_own} %), but {span(map(left, alive))} % under all "
        f"attacks (the first {few} images; {fair} % under those that ReLU met, too). ReLU keeps "
        f"{span(map(left, relu.values()))} %. {above} of {len(alive)} lie above ReLU of "
        "their seed, Wilson's intervals apart."
    )


def interval(record: Record, families: tuple[str, ...] = ALL) -> str:
    """Percent that survive these attacks, over the images that all of these saw, and Wilson's."""
    standing = union(record, families, common=True)
    low, high = wilson(int(standing.sum()), len(standing))
    return f"**{100 * standing.mean():.1f}**<br>{100 * low:.1f}–{100 * high:.1f}"


def rules(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """Accuracy under PGD through each backward rule, of the networks that have quantisers."""
    rows = [
        [name, *(f"{percent(record, f'rule/{rule}'):.1f}" for rule in RULES)]
        for name, (record, _) in networks.items()
        if "rule/zero" in record.metrics
    ]
    if not rows:
        return "No quantised network has been tried yet."
    return markdown_table(["network", *RULES.values()], rows)


def best_rules(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """Which backward rule leaves least, and where another does than that of the main attack."""
    best, better = {}, 0
    for name, (record, _) in networks.items():
        if "rule/zero" in record.metrics and not collapsed(record.metrics):
            left = {rule: percent(record, f"rule/{rule}") for rule in RULES}
            least = min(left.values())
            best[name] = " and ".join(RULES[rule] for rule, of in left.items() if of == least)
            better += least < left["sigmoid-5"]
    said = "; ".join(f"{name}: {rules}" for name, rules in best.items())
    return (
        f"What leaves least: {said or 'nothing tried'}. The main attack takes T = 5 throughout, as "
        f"fixed beforehand; another rule does more in as many steps in {better} of {len(best)}."
    )


def repaired(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """Where the table's PGD leaves more than the random point that it starts from."""
    found = {
        name: (percent(r, "rule/zero"), percent(r, "table/pgd"))
        for name, (r, _) in networks.items()
        if "rule/zero" in r.metrics and not collapsed(r.metrics)
    }
    worse = {n: pair for n, pair in found.items() if pair[1] > pair[0]}
    if not worse:
        return "In none of these networks does PGD leave more than its random start."
    name, (start, end) = max(worse.items(), key=lambda item: item[1][1] - item[1][0])
    return (
        f"In {len(worse)} of {len(found)} networks that did not collapse the table's PGD leaves "
        f"more images right than the random points that it starts from, at most by "
        f"{end - start:.1f} points ({name}: {start:.1f} % at the start, {end:.1f} % at the end). "
        "There the attack *repairs* images."
    )


def moved_by_maximum(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """How much Eq. 2's maximum over the image alone, not the batch, changes under PGD."""
    changes = {}
    for name, (record, table) in networks.items():
        now = hits(record, "table/pgd")
        changes[name] = 100 * hits(table, "pgd")[: len(now)].mean(), 100 * now.mean()
    name, (batch, alone) = max(changes.items(), key=lambda item: abs(item[1][0] - item[1][1]))
    return (
        "The change from the maximum over a batch to that over the image alone moves PGD most for "
        f"{name}: from {batch:.1f} to {alone:.1f} %."
    )


def queries(networks: Mapping[str, tuple[Record, Record]]) -> str:
    """Accuracy under attacks that see no gradient."""
    first = next(iter(networks.values()))[0]
    planned = first.experiment["trial"]["conditions"]
    draws = planned["noise"]["attack"]["draws"]
    titles = {"noise": f"{draws:,} draws of noise", "square": "Square"}
    samples = sorted(int(n.removeprefix("nes/")) for n in planned if n.startswith("nes/"))
    titles |= {f"nes/{n}": f"NES, samples {n}" for n in samples}
    titles |= {"hopskipjump": "HopSkipJump"}
    groups: dict[int, list[str]] = {}  # by the number of images that they met
    for condition in titles:
        met = [
            r.metrics[condition]["total"] for r, _ in networks.values() if condition in r.metrics
        ]
        groups.setdefault(min(met, default=sizes(first)[0]), []).append(condition)
    header, rows = ["network"], [[name] for name in networks]
    for count, conditions in sorted(groups.items(), reverse=True):
        header += [f"clean ({count})", *(titles[c] for c in conditions)]
        for row, (record, _) in zip(rows, networks.values(), strict=True):
            shares = [100 * float(hits(record, "clean")[:count].mean())]
            shares += [
                percent(record, c) if c in record.metrics else float("nan") for c in conditions
            ]
            row += [f"{share:.1f}".replace("nan", "–") for share in shares]
    return markdown_table(header, rows)


def checked(trials: Mapping[str, Record]) -> str:
    """How many networks pass each of `checks`, and what was measured where one failed.

    Args: trials: {network: record}; those whose training collapsed are left out.
    """
    every = {name: checks(r) for name, r in trials.items() if not collapsed(r.metrics)}
    titled = {
        name: {check.replace(", own", ", the table's attack"): v for check, v in found.items()}
        for name, found in every.items()
    }
    flags = ("flags/randomised", "flags/softmax")
    flagged = [n for n, r in trials.items() if any(r.arrays[f] for f in flags)]
    return (
        f"{checks_table(titled)}\n\nFlags of AutoAttack (answers that change from call to call, or "
        f"that end in a softmax): {', '.join(flagged) or 'none'}.{_left_out(trials)}"
    )


def left_out(record: Record) -> list[str]:
    """The conditions that a trial's limit of time left out."""
    trial = record.experiment.get("trial", {})
    planned = trial["conditions"] if "limit_s" in trial else ()
    return [name for name in planned if name not in record.metrics]


def _left_out(trials: Mapping[str, Record]) -> str:
    """A sentence on what trials left out; empty if that is nothing."""
    missing = {name: left_out(r) for name, r in trials.items()}
    said = "; ".join(f"{name}: {', '.join(found)}" for name, found in missing.items() if found)
    return f" Left out when the time was up: {said}." if said else ""


def zero_gradients(trials: Mapping[str, Record]) -> str:
    """How many gradients are exactly zero at each activation layer, in percent.

    Args: trials: {network: record}; those whose training collapsed are left out.
    """
    rows = []
    for name, record in trials.items():
        if collapsed(record.metrics):
            continue
        cells = []
        for attack in ("own", "main"):
            start = f"zero_gradients/{attack}/"
            shares = {
                n.removeprefix(start): v for n, v in record.arrays.items() if n.startswith(start)
            }
            layers = [100 * float(v) for n, v in shares.items() if n.isdigit()]
            cells.append(f"{min(layers):.1f}–{max(layers):.1f}")
            cells.append(f"{100 * float(shares['pixels']):.1f}")
        rows.append([name, *cells])
    if not rows:
        return "Not run at this scale."
    header = ["network"]
    for attack in ("table's attack", "main attack"):
        header += [f"{attack}: layers", f"{attack}: pixels"]
    return markdown_table(header, rows)


def leaks(trials: Mapping[str, Record]) -> str:
    """How often each network names the false label that an attack was given."""
    rows = []
    for name, record in trials.items():
        named = [record.arrays[f"false_label/{attack}"] for attack in ("own", "main")]
        rows.append([name, *(f"{int(n.sum())} of {len(n)}" for n in named)])
    return markdown_table(["network", "the table's attack", "main attack"], rows)


def by_sight(networks: Mapping[str, Record], control: str, risk: str) -> str:
    """What attacks with gradients leave by themselves, and those without; an item of a list.

    Args: networks: {name: record of its trial}. control: the name of the ReLU network. risk: what
          they were trained on.
    """
    gradient = tuple(f for f in WHITE_BOX if f != "autoattack")  # which ends in Square
    blind = (*QUERIES, "hopskipjump")
    kept = {
        name: [
            100 * float(union(r, families)[: sizes(r)[0]].mean()) for families in (gradient, blind)
        ]
        for name, r in networks.items()
        if not collapsed(r.metrics)
    }
    relu = kept.pop(control, None)
    if not kept or relu is None:
        return "- **With a gradient and without:** not run at this scale."
    spans = [
        f"{min(k):.0f}–{max(k):.0f} % (ReLU {of:.0f} %)"
        for *k, of in zip(*kept.values(), relu, strict=True)
    ]
    missed = [n for n in kept if not checks(networks[n])["planted examples are found"][0]]
    return (
        f"- **With a gradient and without** (trained on {risk}): by themselves, all attacks with "
        f"gradients leave the {len(kept)} quantised networks {spans[0]}, those that see outputs or "
        f"answers only {spans[1]}; the first {sizes(networks[control])[0]} images. The main "
        f"attack, one run of PGD, misses planted examples in {len(missed)} of these {len(kept)}."
    )


def informed(networks: Mapping[str, tuple[Record | None, Record | None]], control: Record) -> str:
    """What training against an informed attack leaves, beside training against the table's own.

    Args: networks: {name: (trial of the table's network, trial of the informed one)}, None where it
          was not run. control: the trial of ReLU.
    """
    rules = {"clean": "clean", "straight-<br>through": "rule/straight_through"}
    rules["sigmoid"] = "rule/sigmoid-5"

    def cells(record: Record | None, *conditions: str) -> list[str]:
        if record is None:
            return ["missing"] * 4
        shares = [f"{percent(record, c):.1f}" if c else "–" for c in conditions]
        return [*shares, interval(record, ALL)]

    rows = [["ReLU", *cells(control, "clean", "rule/own", ""), *["–"] * 4]]
    rows += [
        [name, *(cell for record in pair for cell in cells(record, *rules.values()))]
        for name, pair in networks.items()
    ]
    titles = [*rules, f"all ({sizes(control)[0]})"]
    header = [f"{how}:<br>{title}" for how in ("Table 1", "informed") for title in titles]
    return markdown_table(["network", *header], rows)


def _met_by_both(record: Record, other: Record) -> tuple[np.ndarray, np.ndarray]:
    """(N,) bool each: which images survive the attacks that both networks met, of those images.

    ReLU's one backward rule stands for the straight-through rule of the others.
    """
    names = [n for n in record.metrics if n.startswith(ALL) and n in other.metrics]
    standing = []
    for r in (record, other):
        rule = {"rule/own", "rule/straight_through"} & r.metrics.keys()
        standing.append([hits(r, n) for n in ("clean", *names, *rule)])
    few = min(len(bits) for each in standing for bits in each)
    one, two = (np.all([bits[:few] for bits in each], axis=0) for each in standing)
    return one, two


def left_beside(record: Record, control: Record) -> float:
    """Percent that survive the attacks that both networks met, over the images that all saw."""
    return 100 * float(_met_by_both(record, control)[0].mean())


def lead(records: Sequence[Record], others: Sequence[Record]) -> tuple[float, float]:
    """By how many points one network keeps more images than another, and the margin (95 %).

    Args: records, others: trials of the two; the seeds that both have count, all images together.
    """
    of = {r.seed: r for r in others}
    pairs = [_met_by_both(r, of[r.seed]) for r in records if r.seed in of]
    one, other = (np.concatenate(images) for images in zip(*pairs, strict=True))
    return paired(one, other)


def _above(record: Record, control: Record) -> bool:
    """Whether all attacks leave more of it than of the control, Wilson's intervals apart."""
    low, high = (
        wilson(int(standing.sum()), len(standing))
        for standing in (union(r, common=True) for r in (record, control))
    )
    return low[0] > high[1]


def _beside(networks: Mapping[str, Record], control: Record) -> str:
    """The quantised networks under all attacks, beside ReLU.

    Args: networks: {name: record of its trial}, without the control.
    """
    lost = [n for n, r in networks.items() if collapsed(r.metrics)]
    kept = {n: union(r, common=True) for n, r in networks.items() if n not in lost}
    relu = union(control, common=True)
    few = len(relu)
    above = sum(_above(networks[n], control) for n in kept)
    text = f"ReLU keeps {100 * relu.mean():.1f} %"
    if kept:
        shares = [100 * k.mean() for k in kept.values()]
        fair = [left_beside(networks[n], control) for n in kept]
        text = (
            f"{min(shares):.1f}–{max(shares):.1f} % under all attacks (the first {few} images; "
            f"{min(fair):.1f}–{max(fair):.1f} % under those that ReLU met, too). {text}. "
            f"{above} of {len(kept)} lie above ReLU, Wilson's intervals apart"
        )
    return text + (f". Collapsed in training: {'; '.join(lost)}." if lost else ".")


def conclude_informed(networks: Mapping[str, Record | None], control: Record) -> str:
    """Whether informed training brings a quantised network over ReLU, as an item of a list.

    Args: networks: {name: trial of the informed network}, None where it was not run.
    """
    run = {name: r for name, r in networks.items() if r is not None}
    title = "- **Trained against the informed attack**"
    if len(run) < len(networks):
        return f"{title}: {len(run)} of {len(networks)} networks tried so far."
    return f"{title}, the quantised networks keep {_beside(run, control)}"


def conclude(networks: Mapping[str, Record], control: str, risk: str, total: int) -> str:
    """What is left of the quantised networks beside the control, as an item of a list.

    Args: networks: {name: record of its trial}. control: the name of the ReLU network. risk: what
          they were trained on. total: how many networks there will be.
    """
    if len(networks) < total:
        each = "; ".join(
            f"{name} {100 * float(hits(r, 'table/pgd')[: sizes(r)[0]].mean()):.1f} → {left(r):.1f}"
            for name, r in networks.items()
        )
        return (
            f"- **Trained on {risk}**, {len(networks)} of {total} networks tried so far; accuracy "
            "under the table's PGD → under all attacks, on the same images, in percent: "
            f"{each or 'none'}."
        )
    others = {name: r for name, r in networks.items() if name != control}
    relu = networks[control]
    trained = [r for r in others.values() if not collapsed(r.metrics)]
    before = [percent(r, "table/pgd") for r in trained]
    span = f"{min(before):.1f}–{max(before):.1f} %" if before else "nothing"
    return (
        f"- **Trained on {risk}**, the {len(trained)} quantised networks that did not collapse "
        f"keep {span} under the table's PGD ({sizes(relu)[1]} images; ReLU "
        f"{percent(relu, 'table/pgd'):.1f} %), but {_beside(others, relu)}"
    )

"""DQA under C&W, ZOO and substitute models: Tables 3, 5 and 6 beside our records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproduce import published
from reproduce.evaluation import collapsed, paired, wilson
from reproduce.figures import markdown_table, model_name
from reproduce.results import Record, hits, percent

Records = Mapping[str, Sequence[Record]]  # by cell, each seed
BITS = (3, 2, 1)


@dataclass(frozen=True)
class Broken:
    """What an attack that looks for the smallest perturbation did to the images it had to move.

    total: images that were right as they stood. broken: of them, those that it changed the answer
    of. mean, median: l2 norms of these, NaN where there are none.
    """

    total: int
    broken: int
    mean: float
    median: float

    @property
    def rate(self) -> float:
        """In percent; NaN where no image was right."""
        return 100 * self.broken / self.total if self.total else float("nan")


def broken(record: Record, condition: str) -> Broken:
    """The outcome of one condition of a norm trial."""
    return outcome(record.arrays[f"norm/{condition}"])


def outcome(norms: np.ndarray) -> Broken:
    """From norms (N,): 0 where an image was wrong as it stood, inf where it was never broken."""
    moved = norms[norms > 0].astype(np.float64)
    found = moved[np.isfinite(moved)]
    if not len(found):
        return Broken(len(moved), 0, float("nan"), float("nan"))
    return Broken(len(moved), len(found), float(found.mean()), float(np.median(found)))


def smallest(record: Record, attack: str) -> np.ndarray:
    """(N,): each image's norm under the best condition of "cw" or "zoo"; inf, none broke it."""
    found = [v for n, v in record.arrays.items() if n.startswith(f"norm/{attack}/")]
    return np.min(found, axis=0)


def _each(records: Sequence[Record], condition: str, text: str) -> str:
    """`text` about a condition, seed by seed; missing where there is none."""
    found = [broken(r, condition) for r in records if f"norm/{condition}" in r.arrays]
    said = (
        text.format(b=b).replace("nan (nan)", "none") if b.total else "no image was right"
        for b in found
    )
    return (
        "<br>".join(s.replace(", norm none", "").replace(" (nan)", "") for s in said) or "missing"
    )


def _network(bits: int | None, kind: str) -> tuple[str, str]:
    """(name in a table, cell)."""
    if bits is None:
        return model_name("relu", None), "relu"
    return model_name(kind, bits), f"{kind}-{bits}bit"


def table3(records: Records) -> tuple[str, str]:
    """Both columns of Table 3: without adversarial training the norms, with it the success rate."""
    printed = published.load("dqa_table3")
    norm = "{b.mean:.3f} ({b.median:.3f}), {b.rate:.0f} % of {b.total}"
    success = "{b.rate:.1f} % of {b.total}, norm {b.mean:.3f} ({b.median:.3f})"
    tables = []
    for kind, trained, said, text in (
        ("fixed", False, "{:.2f}", norm),
        ("dynamic", True, "{:.0f} %", success),
    ):
        rows = []
        for bits in (None, *BITS):
            name, cell = _network(bits, kind)
            same = printed["bits"].isna() if bits is None else printed["bits"] == bits
            value = printed[same & (printed["adversarial_training"] == trained)]["value"].item()
            runs = records.get(cell if trained else f"{cell}-clean", [])
            sigmoid = "the same" if bits is None else _each(runs, "cw/sigmoid", text)
            rows.append([name, said.format(value), _each(runs, "cw/own", text), sigmoid])
        ours = "success, mean (median) norm" if trained else "mean (median) norm, success"
        header = ["network", "published", f"ours, own rule: {ours}", "ours, through the sigmoid"]
        tables.append(markdown_table(header, rows))
    return tables[0], tables[1]


def table5(records: Records, widths: Sequence[str]) -> str:
    """Table 5: ZOO's success rate, and its median norm, at each width of its finite difference."""
    printed = published.load("dqa_table5")
    printed = printed[printed["quantity"] == "attack_success"]
    rows = []
    for bits in (None, *BITS):
        name, cell = _network(bits, "dynamic")
        same = printed["bits"].isna() if bits is None else printed["bits"] == bits
        ours = [
            _each(records.get(cell, []), f"zoo/{h}", "{b.rate:.1f} ({b.median:.2f})")
            for h in widths
        ]
        rows.append([name, f"{printed[same]['value'].item():.2f}", *ours])
    titles = [f"h = {h}".replace(" ", "\xa0").replace("-", "\u2011") for h in widths]  # unbroken
    return markdown_table(["network", "published", *titles], rows)


def norms_to_break(records: Records) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, float]]:
    """C&W on the networks without adversarial training, for `trial_figures.broken_within`.

    Returns: ({network: {rule: norms of the images that were right as they stood, inf where one was
             never broken}}, {network: published mean}), of the networks that have a record.
    """
    printed = published.load("dqa_table3")
    printed = printed[~printed["adversarial_training"]]
    rules = {"own": "own rule", "sigmoid": "through the sigmoid"}
    networks, means = {}, {}
    for bits in (None, *BITS):
        name, cell = _network(bits, "fixed")
        for record in records.get(f"{cell}-clean", []):
            arrays = {said: record.arrays.get(f"norm/cw/{rule}") for rule, said in rules.items()}
            networks[name] = {said: v[v > 0] for said, v in arrays.items() if v is not None}
            same = printed["bits"].isna() if bits is None else printed["bits"] == bits
            means[name] = printed[same]["value"].item()
    return networks, means


def within_the_ball(norm_trials: Records, tables: Records) -> str:
    """What C&W breaks without leaving PGD's ball, of the images that PGD leaves; a table.

    A perturbation of l2 norm r moves no pixel by more than r: those with norms up to PGD's radius
    lie in its ball, and there may be more.

    Args: norm_trials: by cell. tables: the networks' own records, by cell.
    """
    rows = []
    for bits in (None, *BITS):
        name, cell = _network(bits, "dynamic")
        for trial in norm_trials.get(cell, []):
            for network in (r for r in tables.get(cell, []) if r.seed == trial.seed):
                rows.append([name, *_within(trial, network)])
    if not rows:
        return "Not run at this scale."
    header = [
        "network",
        "images",
        "right after PGD",
        "of these, broken by C&W within ε",
        "of these, by less than half a grey value",
    ]
    return markdown_table(header, rows)


def _within(trial: Record, network: Record) -> tuple[int, int, int, int]:
    """(images, right after the table's PGD, of these broken by C&W within its radius, of these by
    a norm below half a grey value, which rounding to 8 bits is certain to remove)."""
    norms = smallest(trial, "cw")
    standing = hits(network, "pgd")[: len(norms)]
    radius = network.experiment["attacks"]["pgd"]["eps_255"] / 255
    near, tiny = (int((standing & (norms <= r)).sum()) for r in (radius, 0.499 / 255))
    return len(norms), int(standing.sum()), near, tiny


def zoo_rates(
    records: Records, widths: Sequence[str]
) -> dict[str, list[tuple[float, float, float]]]:
    """{network: (percent of images broken, Wilson's low, high) at each width}, as recorded."""
    found = {}
    for bits in (None, *BITS):
        name, cell = _network(bits, "dynamic")
        for record in records.get(cell, []):
            each = [broken(record, f"zoo/{h}") for h in widths]
            if each[0].total:
                found[name] = [
                    (b.rate, *(100 * x for x in wilson(b.broken, b.total))) for b in each
                ]
    return found


def table6(records: Records) -> str:
    """Table 6, its attack read as PGD-7: published, then each of our seeds; and FGSM."""
    printed = published.load("dqa_table6").set_index(["substitute", "bits", "model", "attack"])
    columns = [
        ("defense", "clean"),
        ("substitute", "clean"),
        ("substitute", "pgd"),
        ("defense", "pgd"),
    ]
    rows = []
    for network, title in (("vgg16", "VGG-16"), ("alexnet", "AlexNet")):
        for bits in BITS:
            runs = records.get(f"dynamic-{bits}bit-{network}", [])
            row = [title, model_name("dynamic", bits)]
            for who, attack in columns:
                column = "transfer" if attack == "pgd" else attack
                row.append(f"{printed.loc[network, bits, who, column]['value']:.2f}")
                row.append(_accuracies(runs, f"{who}/{attack}"))
            rows.append([*row, _accuracies(runs, "defense/fgsm")])
    header = ["substitute", "target"]
    for who in ("defence", "substitute"):
        header += [f"{who}, clean<br>published", f"{who}, clean<br>ours"]
    for who in ("substitute", "defence"):
        header += [f"{who}, attacked<br>published", f"{who}, PGD-7<br>ours"]
    return markdown_table([*header, "defence, FGSM<br>ours"], rows)


def as_printed() -> str:
    """What the published tables say by themselves of transfer against the direct attack."""
    table2 = published.load("dqa_table2")
    direct = table2[(table2["activation"] == "dynamic") & (table2["attack"] == "pgd")]
    direct = direct.set_index("bits")["value"]
    table6 = published.load("dqa_table6")
    under = table6[(table6["substitute"] == "vgg16") & (table6["attack"] == "transfer")]
    target, own = (
        under[under["model"] == m].set_index("bits")["value"] for m in ("defense", "substitute")
    )
    gaps = direct - target
    return (
        f"Already as printed, attacks made on VGG-16 leave {gaps.min():.0f} to {gaps.max():.0f} "
        "points less than PGD on networks of the same bits (Table 2, dynamic). An attacker who "
        "sees the network could use the same examples. So PGD must have failed, provided that ε "
        "and the networks are the same. The paper does not give ε, and by their clean accuracy "
        "only the networks of 1 bit can be the same. And VGG-16, which has no quantisers, is "
        f"printed with {own.min():.0f} to {own.max():.0f} % under the attack made on it. PGD is "
        "known to leave almost nothing of a network that was trained on clean images and their "
        "true labels {cite:p}`madry2018pgd`. So either the attack was weak, or the substitutes "
        "were trained against it, which the paper does not say, or they took over some of the "
        "target's robustness with its labels."
    )


def substitutes_left(records: Records) -> str:
    """What PGD-7 leaves of our substitutes, themselves, as a sentence; empty without a record."""
    said = []
    for network, title in (("vgg16", "VGG-16"), ("alexnet", "AlexNet")):
        left = [
            100 * percent(r, "substitute/pgd") / percent(r, "substitute/clean")
            for cell, runs in records.items()
            for r in runs
            if cell.endswith(f"-{network}") and percent(r, "substitute/clean")
        ]
        if left:
            span = "–".join(dict.fromkeys(f"{v:.0f}" for v in (min(left), max(left))))
            said.append(f"{span} % of what our {title} get right")
    return f"PGD-7 on the substitutes leaves {' and '.join(said)}." if said else ""


def _accuracies(records: Sequence[Record], condition: str) -> str:
    return "<br>".join(f"{percent(r, condition):.2f}" for r in records) or "missing"


# --- Conclusions ----------------------------------------------------------------------------------


def conclude(norm_trials: Records, tables: Records, transfers: Records) -> str:
    """What the records say of Tables 3, 5 and 6, as a list; missing where they say nothing.

    Networks that collapsed in training are left out: one answer for all images cannot be changed.

    Args: norm_trials, transfers: by cell. tables: the networks' own records, by cell.
    """
    dynamic, fixed, relu = (
        [r for cell in cells for r in norm_trials.get(cell, []) if not _lost(tables.get(cell), r)]
        for cells in (
            [f"dynamic-{bits}bit" for bits in BITS],
            [f"fixed-{bits}bit-clean" for bits in BITS],
            ["relu"],
        )
    )
    lines = []
    for title, runs in (("Table 3, first column", fixed), ("Table 3, second column", dynamic)):
        if not runs:
            lines.append(f"- **{title}:** not run at this scale.")
            continue
        rules = {
            rule: [broken(r, f"cw/{rule}") for r in runs if f"norm/cw/{rule}" in r.arrays]
            for rule in ("own", "sigmoid")
        }
        said = ", ".join(
            f"{sum(b.broken for b in found)} of {sum(b.total for b in found)} "
            + ("with the network's own rule" if rule == "own" else "through the sigmoid")
            for rule, found in rules.items()
        )
        lines.append(
            f"- **{title}:** of the images of {len(runs)} of {len(BITS)} quantised networks, C&W "
            f"breaks {said}."
        )
    lines += _conclude_within(norm_trials, tables)
    lines.append(_conclude_zoo(dynamic, relu))
    lines.append(_conclude_transfer(tables, transfers))
    return "\n".join(lines)


def _lost(networks: Sequence[Record] | None, trial: Record) -> bool:
    """Whether the network of a trial collapsed, as its own record says."""
    return any(collapsed(r.metrics) for r in networks or [] if r.seed == trial.seed)


def _conclude_within(norm_trials: Records, tables: Records) -> list[str]:
    counts = [
        _within(trial, network)
        for bits in BITS
        for trial in norm_trials.get(f"dynamic-{bits}bit", [])
        for network in tables.get(f"dynamic-{bits}bit", [])
        if network.seed == trial.seed and not collapsed(network.metrics)
    ]
    if not counts:
        return []
    _, right, broken_too, tiny = (sum(column) for column in zip(*counts, strict=True))
    missed = (
        f", where PGD had missed them; {tiny} of these by less than half a grey value, which an "
        "8-bit file would not keep."
    )
    return [
        f"- **Against Table 2:** of {right} images of dynamic networks that PGD leaves right, C&W "
        f"breaks {broken_too} without leaving PGD's ball" + (missed if broken_too else ".")
    ]


def _conclude_zoo(dynamic: Sequence[Record], relu: Sequence[Record]) -> str:
    def best(runs: Sequence[Record]) -> tuple[float, str]:
        widths = {
            n.removeprefix("norm/") for r in runs for n in r.arrays if n.startswith("norm/zoo/")
        }
        rates = {}
        for w in widths:
            each = [broken(r, w) for r in runs]
            rates[w] = 100 * sum(b.broken for b in each) / max(1, sum(b.total for b in each))
        width = max(sorted(rates), key=lambda w: rates[w])
        return rates[width], width.removeprefix("zoo/")

    if not dynamic or not relu:
        some = "of some networks only" if dynamic or relu else "not"
        return f"- **Table 5:** {some} run at this scale."
    (ours, width), (plain, other) = best(dynamic), best(relu)
    never = known = 0
    for r in dynamic:
        standing = np.isinf(smallest(r, "zoo"))
        never += int(standing.sum())
        known += int((standing & np.isfinite(smallest(r, "cw")[: len(standing)])).sum())
    return (
        f"- **Table 5:** at its best width ZOO breaks {ours:.1f} % of the images of {len(dynamic)} "
        f"of {len(BITS)} dynamic networks (h = {width}) and {plain:.1f} % for ReLU (h = {other}). "
        f"Of the {never} images of dynamic networks that it breaks at no width, C&W breaks {known}."
    )


def _conclude_transfer(tables: Records, transfers: Records) -> str:
    gaps = []
    for cell, runs in transfers.items():
        own = {r.seed: r for r in tables.get(cell.rsplit("-", 1)[0], [])}
        for r in runs:
            if r.seed in own and not collapsed(own[r.seed].metrics):
                after = hits(r, "defense/pgd")
                gaps.append(paired(hits(own[r.seed], "pgd")[: len(after)], after))
    if not gaps:
        return "- **Table 6:** not run at this scale."
    return (
        f"- **Table 6:** in {sum(gap > margin for gap, margin in gaps)} of {len(gaps)} cases the "
        "substitute's attack leaves less than PGD on the network itself, by more than the margin "
        "(95 %). A transferred attack knows less, so wherever it does more, the direct one was "
        "blunt. (Without networks that collapsed.)"
    )

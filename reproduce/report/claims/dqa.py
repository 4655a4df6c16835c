"""What decides the claims of DQA, by their keys in claims.csv."""

from __future__ import annotations

from collections.abc import Sequence

from reproduce import published
from reproduce.report.claims import dqa_attacks as attacks
from reproduce.report.claims import dqa_tables as tables
from reproduce.report.claims.dqa_tables import BITS, quantised, relu, said, span
from reproduce.report.claims.evidence import Activations
from reproduce.report.claims.rule import Comparison
from reproduce.report.dqa import ATTACKS, BLIND

# Shorter trainings of narrower networks decide nothing on CIFAR-10.
SCALES = {"mnist": ("paper", "laptop"), "cifar10": ("paper",)}
# Families of attacks (reproduce.attacks). What is made on another network is left out: the control
# does not meet it.
BOXES = {"black": BLIND, "white": ("gradient", "ensemble")}


def _on(dataset: str, comparisons: list[Comparison], **options) -> dict:
    """A claim about networks of one data set, in both readings of the risk."""
    return {"comparisons": comparisons, "scales": SCALES[dataset], "mixed": (True, False)} | options


def _each(networks: Sequence[Activations], attack: str) -> str:
    return ", ".join(f"{said(n, attack):.2f}" for n in networks) + " %"


def _all_of(dataset: str, attack: str) -> str:
    return span([said(n, attack) for n in quantised(dataset)])


def _of_tables(dataset: str, name: str) -> dict[str, dict]:
    """What is claimed of Table 1 and Table 2 alike. Args: name: in the keys."""
    three = ", ".join(f"{t} {said(relu(dataset), a):.2f}" for a, t in ATTACKS.items()) + " %"
    found = {"relu": _on(dataset, tables.baseline(dataset), said=three)}
    for attack in ("pgd", "fgsm"):
        every = quantised(dataset)
        what = {"said": _all_of(dataset, attack), "defended": every}
        found[attack] = _on(dataset, tables.gains(attack, every), **what)
    learnt = {"defended": quantised(dataset, "dynamic")}
    found["dynamic"] = _on(dataset, tables.learnt_over_fixed(dataset, "pgd"), **learnt)
    found["fgsm-stronger"] = _on(dataset, tables.fgsm_stronger(dataset))
    return {f"dqa-{name}-{key}": rule for key, rule in found.items()}


def _one_network(one: Activations, comparisons: list[Comparison]) -> dict:
    before, after = (f"{said(n, 'pgd'):.2f}" for n in (relu(one.dataset), one))
    return _on(one.dataset, comparisons, said=f"{before} → {after} %", defended=(one,))


def _of_mnist() -> dict[str, dict]:
    every, one_bit = quantised("mnist"), Activations("mnist", "fixed", BITS[0])
    found = {
        "dqa-mnist-clean": _on("mnist", tables.clean_cost("mnist"), said=_all_of("mnist", "clean")),
        "dqa-mnist-fixed-1bit": _one_network(one_bit, tables.gains("pgd", [one_bit])),
        "dqa-noise": _on("mnist", tables.noise_suppressed("mnist"), defended=every),
    }
    for colour, families in BOXES.items():
        kept = tables.keeps_more("mnist", f"{colour}-box attacks", families)
        found[f"dqa-{colour}-box"] = _on("mnist", kept, defended=every)
    return found


def _of_cifar10() -> dict[str, dict]:
    data, best = "cifar10", Activations("cifar10", "dynamic", 2)
    fixed, learnt = (quantised(data, kind) for kind in ("fixed", "dynamic"))
    clean, fgsm = (tables.learnt_over_fixed(data, attack) for attack in ("clean", "fgsm"))
    bits = {"said": _each(fixed, "pgd"), "defended": fixed}
    return {
        "dqa-cifar-clean": _on(data, clean, said=_all_of(data, "clean")),
        "dqa-cifar-dynamic-2bit": _one_network(best, tables.best_of_all(best)),
        "dqa-cifar-bits": _on(data, tables.fewer_bits(data), **bits),
        "dqa-cifar-bits-fgsm": {
            "comparisons": tables.fewer_bits_as_printed(),
            "said": _each(fixed, "fgsm"),
        },
        "dqa-cifar-dynamic-fgsm": _on(data, fgsm, defended=learnt),
    }


def _against_others() -> dict[str, dict]:
    gap = published.load("dqa_text").set_index("key")["value"]
    bounds = (f"{gap[f'clean_gap_{end}']:g}" for end in ("min", "max"))
    found = {
        "dqa-clean-gap": {
            "comparisons": tables.close_to_the_others(),
            "said": f"within {'–'.join(bounds)} points",
            "in_part": True,
        }
    }
    for dataset, attack in (("mnist", "pgd"), ("mnist", "fgsm"), ("cifar10", "pgd")):
        own = Activations(dataset, "dynamic", 2)
        # The others were trained in full, so ours must be.
        scales = tuple(s for s in SCALES[dataset] if s != "laptop")
        what = {"said": _each([own], attack), "defended": (own,), "scales": scales}
        compared = tables.beats_the_others(own, attack)
        found[f"dqa-best-{dataset}-{attack}"] = _on(dataset, compared, **what)
    return found


def _of_other_attacks() -> dict[str, dict]:
    printed = attacks.printed
    success = {n: printed(n, quantity="attack_success", activation="dynamic") for n in (3, 5)}
    (full,) = printed(5, quantity="attack_success", activation="relu")
    rare = {"scales": SCALES["cifar10"], "defended": attacks.DYNAMIC}
    found = {
        "dqa-cw-norm": {
            "comparisons": attacks.norms(),
            "said": span(printed(3, quantity="l2_norm"), 2, ""),
            "scales": SCALES["cifar10"],
        },
        "dqa-cw-zero": {
            "comparisons": attacks.carlini_wagner_fails(),
            "said": span(success[3], 0, " % success"),
            **rare,
        },
        "dqa-zoo": {
            "comparisons": attacks.zoo_fails(),
            "said": f"{span(success[5], 0, '')} and {full:.2f} %",
            **rare,
        },
        "dqa-tsne": _on("cifar10", attacks.clusters(), defended=attacks.DYNAMIC),
    }
    for one in ("vgg16", "alexnet"):
        left = printed(6, substitute=one, model="defense", attack="transfer")
        what = {"comparisons": attacks.transfer(one), "said": span(left, 0, " % left")}
        found[f"dqa-{one}"] = what | rare
    return found


def rules() -> dict[str, dict]:
    """{key: the fields of rule.Claim that claims.csv does not hold}."""
    tables_1_and_2 = _of_tables("mnist", "mnist") | _of_tables("cifar10", "cifar")
    one_data_set = _of_mnist() | _of_cifar10()
    return tables_1_and_2 | one_data_set | _against_others() | _of_other_attacks()

"""Did the attacks of an audit work? Each sign that they did, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from reproduce.attacks import FGSM, AdaptivePGD, Attack, diagnostics
from reproduce.auditing.result import Audit, Check
from reproduce.auditing.stand_ins import BeforeHead
from reproduce.auditing.suites import Target

SLACK = 0.01  # of the images, at least one: two random attacks may differ by so many
PLANTED = 10  # images of the binarisation test
BLIND = ("score", "decision", "noise")
SIGHTED = ("gradient", "ensemble", "given")


def check(found: Audit, target: Target, head: str | None) -> None:
    """The signs, by the checks' own attack (PGD on the margin) and by what the suite found."""
    right, e = found.right, 255 * found.eps
    n = int(right.sum())
    slack = max(1, round(SLACK * n))
    main = AdaptivePGD(eps_255=e, step_255=e / 4, steps=20, loss="margin")

    def left(attack: Attack) -> np.ndarray:
        eps = attack.eps_255 / 255
        _, run = target.ready("a check", attack, eps)
        return target.right(target.attacked("a check", run, eps)[0])

    def note(name: str, passed: bool, said: str) -> None:
        found.checks[name] = Check(passed=bool(passed), said=said)

    idle = int(left(replace(main, eps_255=0.0, step_255=0.0, steps=1)).sum())
    note("eps = 0 changes nothing", idle == n, f"{idle} of {n} right")
    whole = int(left(replace(main, eps_255=255.0, step_255=255 / 4, steps=40)).sum())
    note("an unbounded eps leaves nothing", whole <= slack, f"{whole} of {n} left")
    one, many = int(left(FGSM(e)).sum()), int(left(main).sum())
    note("many steps beat one", many <= one + slack, f"{many} left, one step {one}")
    bits = left(replace(main, steps=40))
    twice, worst = int(bits.sum()), found.survives[right]
    close = many - twice <= slack or int(worst.sum()) <= twice + slack  # the suite went further
    note("more steps change little", close, f"{many} left, twice the steps {twice}")
    missed = int((worst & ~bits).sum())
    said = f"{missed} of {n} fall to it alone"
    note("the suite finds what PGD of 40 steps finds", missed <= slack, said)
    _gradients(found, slack, note)
    said, passed = _planted(target, head, main)
    note("planted examples are found", passed, said)


def _gradients(found: Audit, slack: int, note: Callable[[str, bool, str], None]) -> None:
    bits = {
        families: [f.bits for f in found.attacks.values() if f.family in families]
        for families in (SIGHTED, BLIND)
    }
    if all(bits.values()):
        kept = np.all([found.right, *bits[SIGHTED]], axis=0)
        missed = int((kept & ~np.all(bits[BLIND], axis=0)).sum())
        said = f"{missed} of {int(found.right.sum())} fall to attacks without a gradient alone"
        note("gradients find what queries find", missed <= slack, said)


def _planted(target: Target, head: str | None, main: AdaptivePGD) -> tuple[str, bool]:
    """Planted adversarial examples that random points miss: does the attack find them?"""
    few, seed = target.images[:PLANTED], target.seed
    whole = nn.Sequential(BeforeHead(target.seen, head), nn.Identity()).eval()
    hit = diagnostics.binarization_test(whole, {"main": main}, few, seed)
    hard = hit["valid"] & ~hit["random"]
    count, reached = int(hard.sum()), int(hit["main"][hard].sum())
    if count:
        return f"{reached} of {count} found", reached > 0 and count - reached <= 1
    if _constant(target):
        return (
            "the outputs are the same everywhere that was tried within eps: no attack could learn "
            "anything there, and what holds there is shown by a proof, not by attacks",
            False,
        )
    return f"none could be planted at {len(few)} images, so nothing is known of the attack", False


def _constant(target: Target) -> bool:
    """Do random points and corners of the balls give the images' very logits?"""
    x = target.images[:PLANTED]
    generator = torch.Generator(x.device).manual_seed(target.seed)
    with torch.no_grad():
        logits = target.model(x)
        for _ in range(10):
            u = 2 * torch.rand(x.shape, generator=generator, device=x.device) - 1
            for step in (u, u.sign()):
                near = target.model((x + target.eps * step).clamp(0, 1))
                if not torch.equal(near, logits):
                    return False
    return True

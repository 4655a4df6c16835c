"""Attacks on a model, each a frozen dataclass of its settings."""

from reproduce.attacks.base import Attack, bpda, full_float32, margin, perturb, seeded
from reproduce.attacks.black_box import NES, HopSkipJump, Noise, Square
from reproduce.attacks.carlini_wagner import CarliniWagner
from reproduce.attacks.ddn import DDN
from reproduce.attacks.gradient import FGSM, PGD, AdaptivePGD, AutoAttack
from reproduce.attacks.zoo import ZOO
from reproduce.checks import check_images

__all__ = [
    "DDN",
    "FGSM",
    "KINDS",
    "NES",
    "PGD",
    "ZOO",
    "AdaptivePGD",
    "Attack",
    "AutoAttack",
    "CarliniWagner",
    "HopSkipJump",
    "Noise",
    "Square",
    "bpda",
    "check_images",
    "full_float32",
    "margin",
    "perturb",
    "seeded",
]

KINDS = (
    FGSM,
    PGD,
    AdaptivePGD,
    AutoAttack,
    CarliniWagner,
    DDN,
    NES,
    Square,
    ZOO,
    HopSkipJump,
    Noise,
)

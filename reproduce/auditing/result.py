"""What an audit found, and its files."""

from __future__ import annotations

import hashlib
import html
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reproduce import records, storage
from reproduce.evaluation import wilson

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BROKEN, STANDS, NO_VERDICT = "broken", "not broken by these attacks", "no verdict"


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """One attack. family: gradient, score, decision, noise, ensemble, transfer or given. bits: (N,)
    bool, which images are judged rightly as they are and under it; False where it was not tried, as
    another had broken the image. tried: (N,) bool. seconds: it took."""

    family: str
    bits: np.ndarray
    tried: np.ndarray
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """Whether a sign of a working attack is there. said: what was measured."""

    passed: bool
    said: str


@dataclass(kw_only=True, eq=False, repr=False)
class Audit:
    """The result of `audit`.

    eps: radius in [0, 1] units, l-infinity. right: (N,) bool, which images are judged rightly as
    they are. attacks: {name: Found}. checks: {name: Check}. flags: {name: bool}. reasons: why
    there is no verdict; none where there is one. adversarial: (N, C, H, W) float32, for each broken
    image the first that breaks it, else the image itself. rounded: (N,) bool, which images survive
    these as an 8-bit file would hold them. skipped: attacks that the time left out. notes: what was
    done to the input, and what else to know.
    """

    eps: float
    right: np.ndarray
    attacks: dict[str, Found] = field(default_factory=dict)
    checks: dict[str, Check] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    adversarial: np.ndarray | None = None
    rounded: np.ndarray | None = None
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clean(self) -> tuple[float, float, float]:
        """Accuracy on the images as they are, with Wilson's 95 % interval, as shares."""
        return _share(self.right)

    @property
    def survives(self) -> np.ndarray:
        """(N,) bool: right, and right under every attack."""
        return np.all([self.right, *(found.bits for found in self.attacks.values())], axis=0)

    @property
    def robust(self) -> tuple[float, float, float] | None:
        """Accuracy in the worst case over all attacks, with Wilson's 95 % interval, as shares.

        None where no attack was run.
        """
        return _share(self.survives) if self.attacks else None

    @property
    def verdict(self) -> str:
        """ "broken": of the images that were right surely fewer than half survive (Wilson, 95 %).
        "not broken by these attacks": surely more do, and every check passed. Else "no verdict: "
        and why. A model that draws lots gets neither: it errs by chance, too.
        """
        low, high = 0.0, 1.0
        kept = self.survives[self.right]
        if self.attacks:
            low, high = wilson(int(kept.sum()), len(kept))
        if high < 0.5 and not self.flags.get("randomised"):
            return BROKEN
        why = [*self.reasons]
        why += [f"{name}: no ({c.said})" for name, c in self.checks.items() if not c.passed]
        if self.skipped:
            why.append(f"left out for want of time: {', '.join(self.skipped)}")
        if self.attacks and low <= 0.5:
            why.append(f"{int(kept.sum())} of {len(kept)} survive, which may be half or not")
        return f"{NO_VERDICT}: {'; '.join(why)}" if why else STANDS

    def __str__(self) -> str:
        parts = [f"clean {_percent(self.clean)}"]
        if self.robust is not None:
            parts.append(f"robust {_percent(self.robust)}")
        counts = f"images {len(self.right)}, attacks {len(self.attacks)}"
        return f"{self.verdict}\n{', '.join(parts)}; eps {255 * self.eps:g}/255, {counts}"

    def __repr__(self) -> str:
        return f"<Audit: {' | '.join(str(self).splitlines())}>"

    def table(self) -> pd.DataFrame:
        """A DataFrame with a row an attack, last the worst case.

        family; tried: on how many images, namely all that were right, or those of them that the
        attacks before it left; robust, low, high: the share left by it (and by those before it,
        where it was tried on what they left); alone: images that no other attack breaks; seconds.
        """
        import pandas as pd

        none = float("nan")
        rows = {"no attack": ("clean", none, *self.clean, none, none)}
        for name, found in self.attacks.items():
            others = [f.bits | ~f.tried for n, f in self.attacks.items() if n != name]
            spared = np.all([self.right, *others], axis=0)
            alone = int((spared & found.tried & ~found.bits).sum())
            tried = int(found.tried.sum())
            rows[name] = (found.family, tried, *_share(found.bits), alone, found.seconds)
        if self.robust is not None:
            seconds = sum(f.seconds for f in self.attacks.values())
            rows["all attacks"] = ("", none, *self.robust, none, seconds)
        columns = ["family", "tried", "robust", "low", "high", "alone", "seconds"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def to_markdown(self) -> str:
        """Verdict, table and checks as Markdown."""
        lines = [
            f"**{self.verdict}** at eps = {255 * self.eps:g}/255, {len(self.right)} images",
            "",
        ]
        lines += [
            "| attack | family | tried | accuracy | 95 % interval | alone |",
            "| --- | --- | ---: | ---: | --- | ---: |",
        ]
        for name, r in self.table().iterrows():
            alone, tried = (f"{v:.0f}" if v == v else "" for v in (r["alone"], r["tried"]))
            span = f"{tried} | {100 * r['robust']:.1f} | {100 * r['low']:.1f}–{100 * r['high']:.1f}"
            lines.append(f"| {_cell(name)} | {r['family']} | {span} | {alone} |")
        if self.checks:
            lines += ["", "| check | passed | measured |", "| --- | --- | --- |"]
        for name, check in self.checks.items():
            lines.append(f"| {name} | {'yes' if check.passed else 'no'} | {_cell(check.said)} |")
        return "\n".join([*lines, "", *self.notes]).rstrip()

    def _repr_html_(self) -> str:
        said = [
            f"{'passed' if c.passed else 'failed'}: {name}: {c.said}"
            for name, c in self.checks.items()
        ]
        items = "".join(f"<li>{html.escape(line)}</li>" for line in [*said, *self.notes])
        table = self.table().to_html(float_format=lambda v: f"{v:.3f}", na_rep="")
        return f"<p><b>{html.escape(self.verdict)}</b></p>{table}<ul>{items}</ul>"

    def plot(self) -> Figure:
        """The ladder: accuracy as one attack after another is added, as a matplotlib figure."""
        import matplotlib.pyplot as plt

        standing, names, values = self.right, ["no attack"], [100 * self.right.mean()]
        for name, found in self.attacks.items():
            standing = standing & found.bits
            names.append(f"+ {name}")
            values.append(100 * standing.mean())
        figure, ax = plt.subplots(figsize=(6.4, 0.9 + 0.32 * len(names)))
        ax.barh(range(len(names)), values, color="#0173b2")
        ax.set(xlim=(0, 100), xlabel="accuracy, all attacks so far (%)")
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        for row, value in enumerate(values):
            ax.annotate(
                f"{value:.1f}", (value, row), xytext=(3, 0), textcoords="offset points", va="center"
            )
        figure.tight_layout()
        plt.close(figure)
        return figure

    def save(self, path: str | Path) -> None:
        """Write everything to one file, "NAME.json", and the images beside it, "NAME.npz".

        Raises: FileExistsError: it never replaces another. OSError.
        """
        path, images = _files(path)
        buffer = io.BytesIO()
        if self.adversarial is not None:
            np.savez_compressed(buffer, adversarial=self.adversarial)
        packed = buffer.getvalue()
        content = {
            "schema": records.SCHEMA,
            "eps": self.eps,
            "right": records.encoded(self.right, "bool"),
            "attacks": {
                n: {
                    "family": f.family,
                    "seconds": f.seconds,
                    "bits": records.encoded(f.bits, "bool"),
                    "tried": records.encoded(f.tried, "bool"),
                }
                for n, f in self.attacks.items()
            },
            "checks": {n: vars(c) for n, c in self.checks.items()},
            "rounded": records.encoded(self.rounded, "bool"),
            "arrays_sha256": hashlib.sha256(packed).hexdigest() if packed else None,
            **{n: getattr(self, n) for n in ("flags", "reasons", "skipped", "notes")},
        }
        content["digest"] = hashlib.sha256(records.canonical(content)).hexdigest()
        if packed:  # first, so that what can be read is whole
            storage.create_bytes(images, packed)
        try:
            storage.create_bytes(path, f"{json.dumps(content, indent=1)}\n".encode())
        except BaseException:
            if packed:
                images.unlink()
            raise

    @classmethod
    def load(cls, path: str | Path) -> Audit:
        """What `save` wrote. Raises: FileNotFoundError. Damaged."""
        path, images = _files(path)
        try:
            content = json.loads(storage.read_bytes(path))
            digest = content.pop("digest")
            if content["schema"] != records.SCHEMA:
                raise ValueError(f"this version reads schema {records.SCHEMA}")
            if digest != hashlib.sha256(records.canonical(content)).hexdigest():
                raise ValueError("it differs from its digest")
            adversarial = None
            if content["arrays_sha256"] is not None:
                stored = images.read_bytes()
                if hashlib.sha256(stored).hexdigest() != content["arrays_sha256"]:
                    raise ValueError("its images have another sha256")
                adversarial = np.load(io.BytesIO(stored), allow_pickle=False)["adversarial"]
            return cls(
                eps=content["eps"],
                right=records.decoded(content["right"], "bool"),
                attacks={n: _found(f) for n, f in content["attacks"].items()},
                checks={n: Check(**c) for n, c in content["checks"].items()},
                adversarial=adversarial,
                rounded=records.decoded(content["rounded"], "bool"),
                **{n: content[n] for n in ("flags", "reasons", "skipped", "notes")},
            )
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
            raise storage.Damaged(f"{path} is no audit: {error}; restore or remove it") from None


def _files(path: str | Path) -> tuple[Path, Path]:
    """NAME.json and NAME.npz, for a name with .json or without."""
    name = str(path).removesuffix(".json")
    return Path(f"{name}.json"), Path(f"{name}.npz")


def _cell(text: str) -> str:
    """Text in a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _found(stored: Mapping) -> Found:
    bits, tried = (records.decoded(stored[n], "bool") for n in ("bits", "tried"))
    return Found(family=stored["family"], bits=bits, tried=tried, seconds=stored["seconds"])


def _percent(share: tuple[float, float, float]) -> str:
    value, low, high = (100 * s for s in share)
    return f"{value:.1f} % ({low:.1f}–{high:.1f})"


def _share(bits: np.ndarray) -> tuple[float, float, float]:
    return float(bits.mean()), *wilson(int(bits.sum()), len(bits))

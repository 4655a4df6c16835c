"""Two papers on quantisation as a defence against adversarial examples, re-run and put on trial.

`reproduce.audit(model, images, labels)` does the same to a model of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reproduce.auditing import Audit as Audit
    from reproduce.auditing import audit as audit

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`audit` and `Audit`, once they are asked for: they need torch, the version does not."""
    if name in ("audit", "Audit"):
        from reproduce import auditing

        return getattr(auditing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

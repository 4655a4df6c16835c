"""An honest evaluation of anyone's network, with parts that have no useful gradient or without.

result = audit(model, images, labels, eps=8 / 255)
result.verdict, result.robust, result.table()
"""

from reproduce.audit.result import Audit
from reproduce.audit.run import SUITES, audit

__all__ = ["SUITES", "Audit", "audit"]

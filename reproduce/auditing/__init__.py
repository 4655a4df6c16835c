"""An honest evaluation of anyone's network, with parts that have no useful gradient or without.

result = audit(model, images, labels, eps=8 / 255)
result.verdict, result.robust, result.table()
"""

from reproduce.auditing.result import Audit, Check, Found
from reproduce.auditing.run import audit
from reproduce.auditing.suites import SUITES

__all__ = ["SUITES", "Audit", "Check", "Found", "audit"]

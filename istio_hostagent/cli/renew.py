"""Make the running agent obtain a new certificate now, and wait for the answer of the CA.

Exit status: 0 renewed, 75 no answer from the CA, 77 refused; what is held stays then.
"""

from . import answer, report
from .options import Option, Values

OPTIONS: tuple[Option, ...] = ()


def execute(_values: Values) -> int:
    """Ask and wait."""
    part = answer.demand("renew")["certificate"]
    print(f"{part['identity']}: {report.certificate_line(part)}")
    return 0

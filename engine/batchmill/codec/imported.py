"""One question: which class has that name, if its module was imported.

It never imports it.

Where it was not, no value can be of that class; importing decimal, fractions, uuid and pathlib to find that out would
take as long as starting a worker.
"""

from __future__ import annotations

import sys
from typing import Any


def imported(name: str) -> Any:
    """The class with that dotted name, such as "decimal.Decimal"; None while its module is not imported."""
    module, _, own = name.rpartition(".")
    return getattr(sys.modules.get(module), own, None)

"""The choice of what JSON is read with: json, or orjson where it is installed.

orjson is imported where lines are read, in a worker: an interrupt in the middle of its import is a SIGSEGV.
"""

from __future__ import annotations

from collections.abc import Callable

from batchmill.errors import InvalidUsage
from batchmill.input.formats import Format, Parse

VARIABLE = "BATCHMILL_JSON"  # in the environment; what it may say:
CHOICES = ("json", "orjson")


def is_installed() -> bool:
    """Whether there is an orjson; it is not imported."""
    from importlib.util import find_spec

    return find_spec("orjson") is not None


def check_choice(choice: str) -> None:
    """Raise InvalidUsage for what the environment cannot ask for; "" is nothing asked."""
    if choice not in ("", *CHOICES):
        raise InvalidUsage(f"{VARIABLE}={choice} is not known", f"give one of {', '.join(CHOICES)}, or unset it")
    if choice == "orjson" and not is_installed():
        raise InvalidUsage(f"{VARIABLE}=orjson, but orjson is not installed", "pip install 'batchmill[fast]'")


def parser_of(format: Format, choice: str) -> Callable[[bytes], Parse | None]:
    """What gives, for a block, the function to parse its records with: the same items and BadItems as the format's own
    parser, and None for that one.

    `choice` is what the environment says: with "json" orjson is not used even where it is installed.
    """
    if format.name == "jsonl" and choice != "json":
        try:
            from batchmill.input.fast_json import parse_of
        except ImportError:
            pass
        else:
            return parse_of
    return lambda block: None

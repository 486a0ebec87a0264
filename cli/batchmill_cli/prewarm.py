"""One look at the command line before anything is imported: whether workers will be needed.

The fork server needs most of what this program needs, and is forked from it while that is all there is: no thread, no
descriptor and no module of a user. A wrong guess costs little: the server ends with us, and other options have it
started later as they need it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

COMMANDS = ("run", "exec", "demo")
_OTHERWISE = ("--help", "--dry-run", "--preload", "--start-method", "--version")  # no server, or another one


def is_wanted(args: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether these arguments look like a batch on workers of the usual kind."""
    if not args or args[0] not in COMMANDS or f"BATCHMILL_{args[0].upper()}_START_METHOD" in environ:
        return False
    own = args[1 : args.index("--")] if "--" in args else args[1:]
    return not any(arg in ("-h", "-n") or arg.startswith(_OTHERWISE) for arg in own)


def take() -> None:
    """Start the fork server. What goes wrong is left to the start that counts."""
    from batchmill.pool import forkserver, forkserver_main

    try:
        if forkserver.default_start_method() == "forkserver":
            # Elsewhere, libraries of the system forbid to fork.
            forkserver.prestart(launch=forkserver_main.fork_off if sys.platform == "linux" else None)
    except OSError:
        pass

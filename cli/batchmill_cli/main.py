"""The way out: the one place that turns an error into a message and an exit status.

Nothing but the standard library's smallest modules is imported up here, so that Ctrl-C is understood from the first
moment on.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from batchmill.importing import without_collection
from batchmill_cli import prewarm
from batchmill_cli.terminal import stdio

if TYPE_CHECKING:
    import click

INTERNAL = 70
LOST = 74
# Statuses above 128 that mean death by a signal. A shell loop ends on Ctrl-C only when its child really died of SIGINT.
DEADLY = {128 + number: number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGTERM)}


def entry() -> NoReturn:
    """Run the program on `sys.argv` and end the process. Never returns."""
    try:
        stdio.reopen_standard()
        shell = os.environ.get("_BATCHMILL_COMPLETE")
        status = _complete(shell) if shell else _run(sys.argv[1:])
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    _leave(status)


def _run(args: list[str]) -> int:
    if os.name != "posix":
        stdio.tell("batchmill: runs on Linux and macOS; on Windows use it inside WSL")
        return INTERNAL
    signal.signal(signal.SIGUSR1, _not_yet)
    if prewarm.is_wanted(args, os.environ):
        prewarm.take()
    with without_collection():
        import click

        from batchmill_cli.group import program

    try:
        with program.make_context("batchmill", args) as context:
            result = program.invoke(context)
            return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        return _usage(error)
    except stdio.PipeClosed:
        return 128 + signal.SIGPIPE
    except Exception as error:
        return _failed(error, verbose=program.verbose)


def _complete(shell: str) -> int:
    from batchmill_cli.group import program
    from batchmill_cli.options.completion import answer

    return answer(program, shell, sys.argv[1:])


def _not_yet(signum: int, frame: object) -> None:
    """USR1 asks how a run stands: before it runs and after it there is nothing to say, but no reason to die either."""


def _usage(error: click.ClickException) -> int:
    """One line for what click found wrong, with the place to look it up."""
    message = error.format_message().strip().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "batchmill"
    stdio.tell(f"batchmill: {_clean(message)}; `{path} --help` shows what there is")
    return error.exit_code


def _failed(error: Exception, *, verbose: bool) -> int:
    from batchmill.errors import BatchmillError
    from batchmill.system.scarcity import lacking

    known = error if isinstance(error, BatchmillError) else lacking(error)
    if known is not None:
        stdio.tell(f"batchmill: {_clean(str(known))}")
        return known.exit_code
    if verbose:
        import traceback

        stdio.tell(_clean("".join(traceback.format_exception(error)).rstrip()))
    hint = "" if verbose else "; run it with -v for the traceback, and please report it"
    stdio.tell(f"batchmill: internal error: {_clean(f'{type(error).__name__}: {error}')}{hint}")
    return INTERNAL


def _clean(text: str) -> str:
    """Without control characters: names and messages come from the user's data. Its own line ends stay."""
    try:
        from batchmill.secrecy import hide
        from batchmill.text import escape
    except ImportError:  # a broken installation must still be able to say so
        return text.encode("ascii", "backslashreplace").decode()
    return "\n".join(escape(line, 4000) for line in hide(text).splitlines())


def _leave(status: int) -> NoReturn:
    """End now. Not by `sys.exit`, which would wait for threads that may wait for a worker that hangs."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = status or 128 + signal.SIGPIPE
    except OSError as error:
        stdio.tell(f"batchmill: {stdio.output_lost(error)}")
        status = status or LOST
    _tidy()
    if status in DEADLY:
        _die(DEADLY[status])
    os._exit(status)


def _tidy() -> None:
    """Have the fork server end, and with it all that workers have left behind."""
    server = sys.modules.get("batchmill.pool.forkserver")
    if server is not None:
        server.stop_all()


def _die(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)

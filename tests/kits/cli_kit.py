"""What the command line's tests share: the real program in a pipe or in a pty."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from process_kit import end_later

PROGRAM = [sys.executable, "-m", "batchmill"]
LIMIT = 60.0

# The same program, which says "up" once it understands signals; until then they are met by Python itself.
_SAYS_UP = """
import os, sys
del sys.path[0]
from batchmill_cli import main
def is_wanted(*arguments, found=main.prewarm.is_wanted):
    os.write(2, b"up\\n")
    return found(*arguments)
main.prewarm.is_wanted = is_wanted
main.entry()
"""
PROGRAM_THAT_SAYS_UP = [sys.executable, "-c", _SAYS_UP]


# An expression: the most memory that this process had, in MiB. ru_maxrss also counts what its parent had at the fork.
PEAK_MIB = "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) >> 10"


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would change the program's mind."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATCHMILL", "NO_COLOR", "PYTHON")) and k != "CI"}
    return {**kept, "TERM": "xterm", **changes}


def batchmill(
    *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, input: bytes | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program in pipes to its end."""
    stdin = {"input": input.decode()} if input is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=cwd, env=environment(**(env or {})), capture_output=True, text=True,
        timeout=LIMIT, check=False, **stdin,
    )  # fmt: skip


def shell(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in which `$BM` is the program."""
    return subprocess.run(
        ["bash", "-c", script], cwd=cwd, env=environment(BM=" ".join(PROGRAM), **env), capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=LIMIT, check=False,
    )  # fmt: skip


class Terminal:
    """The program in a pty of its own session, as a person has it: it gets Ctrl-C from the terminal."""

    def __init__(self, arguments: Sequence[str], cwd: Path, *, columns: int = 100, command: Sequence[str] = PROGRAM,
                 **env: str) -> None:  # fmt: skip
        self.seen = b""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            _set_width(0, columns)
            os.execvpe(command[0], [*command, *arguments], environment(**env))
        end_later(self.pid)

    def read_until(self, ready: Callable[[bytes], bool]) -> None:
        """Read until `ready(all that was seen)`; AssertionError after a minute or at the end."""
        deadline = time.monotonic() + LIMIT
        while not ready(self.seen):
            assert time.monotonic() < deadline, self.seen
            assert self._read(), self.seen

    def press(self, keys: bytes) -> None:
        """Type `keys`."""
        os.write(self._fd, keys)

    def resize(self, columns: int) -> None:
        """Give the terminal another width."""
        _set_width(self._fd, columns)

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        os.kill(self.pid, number)

    def end(self) -> int:
        """Read to the end; the exit status, negative for a signal."""
        deadline = time.monotonic() + LIMIT
        while self._read():
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(self.seen)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self._fd], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # Linux: the last process of the terminal is gone
            return False
        self.seen += data
        return bool(data)


def _set_width(fd: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))


def screen_rows(data: bytes, columns: int) -> list[str]:
    """What a terminal of that width shows after `data`: CR, LF, backspace and wrapping, nothing else."""
    rows, row, column = [""], 0, 0
    for char in data.decode("utf-8", "replace"):
        if char == "\r":
            column = 0
        elif char == "\n":
            row, column = row + 1, 0
        else:
            if column == columns:
                row, column = row + 1, 0
            while len(rows) <= row:
                rows.append("")
            line = rows[row].ljust(column)
            rows[row] = line[:column] + char + line[column + 1 :]
            column += 1
        while len(rows) <= row:
            rows.append("")
    return [line.rstrip() for line in rows]


def wait_for_outcomes(path: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if path.exists() and json.loads(batchmill("status", str(path), "--json").stdout or '{"done": 0}')["done"]:
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing was done in {path}")


EVIL = "</title></style><script>window.caught = 1</script><img src=x onerror='window.caught = 1'>\x1b[31m\u202e\""

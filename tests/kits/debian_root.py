"""A Debian sid in a folder, for the Pythons that this machine does not have.

It is made by debootstrap, once; what it runs is in a mount namespace of its own, so that no mount is left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOOLS = ("debootstrap", "unshare", "chroot", "mount")
PACKAGES = ("make", "git", "ca-certificates", "strace")  # what the tests want besides Python
SETTINGS = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/xdg/pip", "~/.config/pip", "~/.pip",
            "/etc/ssl/certs/ca-certificates.crt")  # fmt: skip
NAMED = ("PIP_CONFIG_FILE", "PIP_CERT", "PIP_CONSTRAINT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
MINUTES = 20  # that making it, or installing a package, may take

# Arguments: the root, a folder to be seen in it under the same name, the command.
ENTER = """
set -e
root=$1
for folder in /proc /sys /dev "$2"; do
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done
shift 2
exec chroot "$root" "$@"
"""
APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "Acquire::Check-Valid-Until=false"]


class DebianRoot:
    """A Debian sid in `folder`, made when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def command(self, command: Sequence[str], work: Path) -> list[str]:
        """The words that run `command` in it; the folder `work` is there under its own name."""
        return [*_namespace(), "sh", "-c", ENTER, "sh", str(self.folder), str(work), *command]

    def python(self, version: str) -> str:
        """The program of that version, installed where it was not. Raises OSError with the reason where it cannot."""
        if os.geteuid() or not all(map(shutil.which, TOOLS)):
            raise OSError(f"Debian's needs root and {', '.join(TOOLS)}")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder.with_name(f"{self.folder.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time makes it, or installs something
            self._make()
            self._copy_settings()
            self._install(version)
        return f"/usr/bin/python{version}"

    def _install(self, version: str) -> None:
        if not (self.folder / "usr/share/doc" / f"python{version}-venv").exists():
            print(f"installing Debian's python{version} in {self.folder}", flush=True)
            packages = [f"python{version}", f"python{version}-venv", *PACKAGES]
            self._run([*APT, "update"])
            self._run([*APT, "install", "--yes", "--no-install-recommends", *packages])

    def _run(self, command: Sequence[str]) -> None:
        _run(self.command(command, Path("/sys")))

    def _make(self) -> None:
        if self.folder.exists():
            return
        print(f"making a Debian sid in {self.folder}", flush=True)
        partial = self.folder.with_name(f"{self.folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        _run([*_namespace(), "debootstrap", "--variant=minbase", "sid", str(partial)])
        partial.rename(self.folder)

    def _copy_settings(self) -> None:
        """How this machine reaches the network and pip its packages."""
        named = [os.environ[name] for name in NAMED if os.environ.get(name)]
        for source in map(Path, map(os.path.expanduser, (*SETTINGS, *named))):
            target = self.folder / source.relative_to("/")
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            elif source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)


def _namespace() -> list[str]:
    return ["unshare", "--mount", "--propagation", "private"]


def _run(command: Sequence[str]) -> None:
    """Run it to its end. Raises OSError with its last words."""
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=MINUTES * 60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise OSError(f"not within {MINUTES} minutes: {' '.join(command[-4:])}") from None
    if ended.returncode:
        words = ended.stdout.strip().splitlines() or [f"exit status {ended.returncode}"]
        raise OSError(words[-1])

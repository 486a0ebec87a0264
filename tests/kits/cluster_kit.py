"""What the tests of clusters share: a real scheduler and real workers of Dask on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cli_kit import environment
from fault_kit import until
from process_kit import born_with, children_of, command_line, kill, send

LIMIT = 60.0
_REGISTERED = "Registered to:"
# What Dask's processes do on their own account, many times a second while nothing happens.
_IDLE = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "false",
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "60s",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
    "DASK_DISTRIBUTED__ADMIN__TICK__CYCLE": "10s",
}


class Daemon:
    """A command of Dask in a session of its own; what it says goes to a file.

    All that comes of it carries a mark: agents make sessions of their own, and may outlive it for a moment.
    """

    def __init__(self, module: str, *arguments: str, log: Path, **env: str) -> None:
        self.log = log
        self._mark = f"CLUSTER_KIT={uuid.uuid4().hex}"
        env["CLUSTER_KIT"] = self._mark.partition("=")[2]
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, cwd=log.parent, env=environment(**_IDLE, **env), stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def said(self) -> str:
        """All that it has said so far."""
        return self.log.read_text(errors="replace")

    def processes(self) -> list[int]:
        """All living processes that came of it."""
        return born_with(self._mark)

    def end(self) -> int:
        """Wait for its end; its exit status."""
        return self.process.wait(LIMIT)

    def close(self) -> None:
        """End it and all that it has started, by id."""
        kill(self.processes)
        self.process.wait(LIMIT)


class Worker(Daemon):
    """A `dask worker` of one thread. Items know its name: os.environ["WORKER"]."""

    _up = 0

    @property
    def is_up(self) -> bool:
        """Whether the scheduler knows it, or its successor, since it was last killed."""
        return self.said().count(_REGISTERED) > self._up

    def until_up(self) -> None:
        """Wait until it is."""
        until(lambda: self.is_up or self.process.poll() is not None, f"a worker:\n{self.said()}")
        assert self.is_up, self.said()

    @property
    def inner_pid(self) -> int:
        """The process that hosts agents: the nanny's child, or the command itself; 0 where there is none now."""
        if not self._has_nanny:
            return self.pid
        return next((child for child in children_of(self.pid) if "spawn_main" in command_line(child)), 0)

    @property
    def _has_nanny(self) -> bool:
        return "--no-nanny" not in command_line(self.pid)

    def kill(self) -> None:
        """SIGKILL for the process that hosts agents; its nanny starts another one."""
        until(lambda: self.inner_pid, "a process that hosts agents")
        self._up = self.said().count(_REGISTERED)
        send(signal.SIGKILL, [self.inner_pid])

    @property
    def agents(self) -> list[int]:
        """The agents of runs that are in it."""
        return [pid for pid in self.processes() if "batchmill.cluster.agent" in command_line(pid)]


class DaskCluster:
    """A scheduler and its workers, by name. `tls` are options for all of them, and make it a tls:// one."""

    def __init__(self, directory: Path, tls: Sequence[str] = ()) -> None:
        self.directory = directory
        self.file = directory / "scheduler.json"
        self.workers: dict[str, Worker] = {}
        self._tls = tuple(tls)
        self._port = 0
        self._started = 0
        self.start_scheduler()

    def start_scheduler(self) -> None:
        """Start the scheduler, where it was before."""
        self.file.unlink(missing_ok=True)
        self.scheduler = Daemon(
            "dask_scheduler", "--host", "tls://127.0.0.1" if self._tls else "127.0.0.1", "--port", str(self._port),
            "--no-dashboard", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self.file), *self._tls,
            log=self._new_log("scheduler"),
        )  # fmt: skip

    @property
    def address(self) -> str:
        """Where the scheduler is; waits until it is there."""

        def is_there() -> bool:
            try:
                found = json.loads(self.file.read_text())["address"]
            except (OSError, ValueError):
                return self.scheduler.process.poll() is not None
            self._port = int(found.rpartition(":")[2])
            return True

        until(is_there, "a scheduler")
        assert self.scheduler.process.poll() is None, self.scheduler.said()
        return f"{'tls' if self._tls else 'tcp'}://127.0.0.1:{self._port}"

    def add(self, name: str, *arguments: str, **env: str) -> Worker:
        """Start a worker; `until_up` says when it is there."""
        worker = self.workers[name] = Worker(
            "dask_worker", self.address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard",
            "--host", "127.0.0.1", "--local-directory", str(self.directory), "--name", name, "--death-timeout", "60",
            *self._tls, *arguments, log=self._new_log(name), WORKER=name, **env,
        )  # fmt: skip
        return worker

    def ready(self, *names: str, nanny: bool = True) -> DaskCluster:
        """Have so many workers be up."""
        for name in names:
            if name not in self.workers:
                self.add(name, *(() if nanny else ("--no-nanny",)))
        for worker in self.workers.values():
            worker.until_up()
        return self

    def remove(self, name: str) -> None:
        """End a worker and all it has started."""
        self.workers.pop(name).close()

    @property
    def agents(self) -> list[int]:
        """The agents of all workers."""
        return [pid for worker in self.workers.values() for pid in worker.agents]

    def assert_no_agents(self, limit: float) -> None:
        """All agents, and with them their workers, end in time."""
        until(lambda: not self.agents, "the end of all agents", limit=limit)

    def close(self) -> None:
        """End all."""
        for daemon in (*self.workers.values(), self.scheduler):
            daemon.close()

    def _new_log(self, name: str) -> Path:
        self._started += 1
        return self.directory / f"{name}.{self._started}.log"


@contextmanager
def dask_cluster(directory: Path, *names: str, nanny: bool = True, tls: Sequence[str] = ()) -> Iterator[DaskCluster]:
    """A cluster with those workers; none of its processes outlives the block."""
    cluster = DaskCluster(directory, tls)
    try:
        yield cluster.ready(*names, nanny=nanny)
    finally:
        cluster.close()


def certificate(directory: Path) -> tuple[str, str, str]:
    """Options for a certificate that is its own authority, made by openssl."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True, timeout=LIMIT,
    )  # fmt: skip
    return str(cert), str(cert), str(key)


def tls_options(directory: Path) -> list[str]:
    """The same, as options of `dask scheduler`, `dask worker` and `batchmill run`."""
    names = ("--tls-ca-file", "--tls-cert", "--tls-key")
    return [word for pair in zip(names, certificate(directory), strict=True) for word in pair]

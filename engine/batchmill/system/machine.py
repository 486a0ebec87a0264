"""What the machine has and what a run uses of it: cores, memory, descriptors, samples.

The only user of psutil, which is imported where it is used: `batchmill --help` must not wait for it. Files below /proc
and /sys are read under a `root` that tests replace.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.model import Usage
from batchmill.text import option
from batchmill.version import __version__

if TYPE_CHECKING:
    import psutil

DESCRIPTORS_PER_WORKER = 8  # counted on CPython 3.11-3.13: `ulimit -n 1024` ended at worker 127
DESCRIPTORS_SPARE = 24  # inputs, checkpoint, output, the fork server
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")  # the last three on Linux only
# These take OMP_NUM_THREADS where they have no value of their own: a user who set that one meant them too.
_FOLLOW_OMP = {"OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS"}


def usable_cores(
    *, root: str = "/", environ: Mapping[str, str] | None = None, affinity: int | None = None
) -> tuple[int, str]:
    """The cores this process may use, and what says so: the least of the limits that are set.

    Limits: CPU affinity, the cgroup's CPU quota rounded up (a worker on half a core is better than none),
    SLURM_CPUS_PER_TASK, and PYTHON_CPU_COUNT or the option of Python that overrules it (`-X cpu_count`).
    """
    environ = os.environ if environ is None else environ
    limits = [(affinity, "CPU affinity") if affinity else _affinity()]
    limits += [(math.ceil(quota), "cgroup CPU quota") for quota in _quotas(root)]
    limits += [(int(text), name) for name, text in _told(environ) if text.isdecimal() and len(text) < 10]
    return min((limit for limit in limits if limit[0] > 0), key=lambda limit: limit[0])


def _told(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Who says how many cores to use, and the text in which that is said."""
    yield "SLURM_CPUS_PER_TASK", environ.get("SLURM_CPUS_PER_TASK", "").strip()
    option = sys._xoptions.get("cpu_count")
    if option is not None:  # also where it is "default", which takes back what the variable says
        yield "-X cpu_count", str(option)
    else:
        yield "PYTHON_CPU_COUNT", environ.get("PYTHON_CPU_COUNT", "").strip()


def worker_count(
    setting: str | int, *, root: str = "/", environ: Mapping[str, str] | None = None, affinity: int | None = None
) -> tuple[int, str]:
    """The number of workers for `--workers` (a validated "auto", "N%" of the usable cores, or N), and what says so."""
    if isinstance(setting, int):
        return setting, option("workers")
    cores, source = usable_cores(root=root, environ=environ, affinity=affinity)
    if setting == "auto":
        return cores, source
    share = float(setting.rstrip("%")) / 100
    return max(1, int(cores * share + 1e-9)), f"{setting} of {cores} ({source})"


def thread_caps(workers: int, cores: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables to set before the user's imports, so that numeric libraries in all workers fit into `cores`."""
    threads = str(max(1, cores // max(1, workers)))
    left_out = _FOLLOW_OMP if environ.get("OMP_NUM_THREADS") else set()
    return {name: threads for name in THREAD_VARIABLES if not environ.get(name) and name not in left_out}


def _affinity() -> tuple[int, str]:
    cores = max(1, os.sysconf("SC_NPROCESSORS_ONLN"))  # os.cpu_count() gives what Python was told to say (3.13)
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
        return (allowed, "CPU affinity") if allowed < cores else (cores, "cores of the machine")
    return cores, "cores of the machine"


def _quotas(root: str) -> Iterator[float]:
    for folder in _cgroup_folders(root, "cpu"):
        quota, _, period = _read(folder, "cpu.max").partition(" ")  # version 2
        if not quota:
            quota, period = _read(folder, "cpu.cfs_quota_us"), _read(folder, "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            yield int(quota) / int(period)


def _free_in_cgroups(root: str) -> Iterator[int]:
    for folder in _cgroup_folders(root, "memory"):
        limit, used, cache = _read(folder, "memory.max"), _read(folder, "memory.current"), "inactive_file"
        if not used:
            limit, used = _read(folder, "memory.limit_in_bytes"), _read(folder, "memory.usage_in_bytes")
            cache = "total_inactive_file"
        if limit.isdecimal() and used.isdecimal():
            # The kernel drops inactive file pages before it kills anyone.
            stat = dict(line.split(" ", 1) for line in _read(folder, "memory.stat").splitlines() if " " in line)
            yield max(0, int(limit) - max(0, int(used) - int(stat.get(cache, "0"))))


def _cgroup_folders(root: str, controller: str) -> Iterator[str]:
    """This process's cgroup and all above it that can be seen: a limit counts wherever in the tree it is set."""
    own = dict(_memberships(root))
    for line in _read(root, "proc/self/mountinfo").splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, rest = tail.partition(" ")
        key = {"cgroup2": "", "cgroup": controller}.get(kind)
        if key not in own or (key and key not in rest.rpartition(" ")[2].split(",")):
            continue
        top, mount = (part.replace("\\040", " ") for part in fields.split(" ")[3:5])
        # In a container without a cgroup namespace the path is the host's, and the mount shows only our own group.
        inside = own[key].removeprefix(top.rstrip("/")) if f"{own[key]}/".startswith(f"{top.rstrip('/')}/") else ""
        parts = [part for part in inside.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            yield os.path.join(root, mount.lstrip("/"), *parts[:depth])


def _memberships(root: str) -> Iterator[tuple[str, str]]:
    for line in _read(root, "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, path


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def available_memory(*, root: str = "/") -> int:
    """Bytes that can be allocated before the machine, or a cgroup of this process, runs out."""
    import psutil

    return min([psutil.virtual_memory().available, *_free_in_cgroups(root)])


def raise_descriptor_limit(workers: int) -> int:
    """Raise the soft limit of open files as far as `workers` need it; return how many workers it allows (at least 1).

    Not to the hard limit: that may be 10**9, and old programs close every descriptor up to it one by one.
    """
    import resource

    spare = _open_descriptors() + DESCRIPTORS_SPARE
    wanted = spare + workers * DESCRIPTORS_PER_WORKER
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
        except (OSError, ValueError):  # macOS has a lower limit of its own beside the hard one
            pass
    if soft == resource.RLIM_INFINITY:
        return workers
    return max(1, min(workers, (soft - spare) // DESCRIPTORS_PER_WORKER))


def _open_descriptors() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 3


def machine(*, root: str = "/") -> dict[str, str | int]:
    """What a run is on, for its RUN frame: system, processor, usable cores and what limits them, memory in bytes."""
    system = os.uname()
    cores, source = usable_cores(root=root)
    return {
        "system": f"{system.sysname} {system.release}",
        "cpu": _processor(root) or system.machine,
        "cores": cores,
        "cores_from": source,
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    }


def _processor(root: str) -> str:
    try:
        with open(os.path.join(root, "proc/cpuinfo"), encoding="utf-8", errors="replace") as file:
            for line in file:  # to the first one only: the kernel takes its time for each core
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""


def versions() -> dict[str, str]:
    """The versions of what runs a batch, for its RUN frame."""
    import msgpack

    return {
        "batchmill": __version__,
        "python": sys.version.split()[0],
        "msgpack": ".".join(map(str, msgpack.version)),
    }


@dataclass(slots=True)
class _Seen:
    process: psutil.Process
    seconds: float = 0.0
    rss: int = 0


class Monitor:
    """Samples the CPU and memory of this process, the parent, and its workers.

    `cpu_seconds` is what all of them used since the monitor was made (the workers' own children included, once those
    have ended), also of workers that died; `peak_rss` the largest sum of resident bytes seen, in which pages that
    workers share count once for each of them. With `offspring`, memory is also that of the processes that workers have
    started. `clock` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, offspring: bool = False) -> None:
        self.cpu_seconds = 0.0
        self.peak_rss = 0
        self._clock = clock
        self._offspring = offspring
        self._workers: dict[int, _Seen] = {}
        self._gone = 0.0
        self._parent: _Seen | None = None  # psutil is not imported before the first worker is on its way
        self._before = sum(os.times()[:2])
        self._last = (clock(), 0.0)
        self._percent = 0.0

    def prepare(self) -> None:
        """Import what takes the samples: that takes its time, in which the first workers start."""
        import psutil  # noqa: F401

    def sample(self, pids: Iterable[int]) -> Usage:
        """Usage now, with `pids` as the workers; `cpu_percent` is of the time since the last sample (100 = one
        core)."""
        import psutil

        self._keep(set(pids))
        parent = self._parent = self._parent or _Seen(psutil.Process())
        self._look(parent, children=False)  # its children may be the workers
        for seen in self._workers.values():
            self._look(seen, children=True)
        workers = list(self._workers.values())
        self.cpu_seconds = max(0.0, parent.seconds - self._before) + self._gone + sum(seen.seconds for seen in workers)
        rss = parent.rss + sum(seen.rss for seen in workers)
        if self._offspring:
            rss += sum(map(offspring_memory, self._workers))
        self.peak_rss = max(self.peak_rss, rss)
        return Usage(self._since_last(), rss, parent.rss, _load())

    def _keep(self, pids: set[int]) -> None:
        import psutil

        for pid in self._workers.keys() - pids:
            self._gone += self._workers.pop(pid).seconds
        for pid in pids - self._workers.keys():
            try:
                self._workers[pid] = _Seen(psutil.Process(pid))
            except psutil.Error:
                pass

    def _look(self, seen: _Seen, children: bool) -> None:
        import psutil

        try:
            with seen.process.oneshot():
                times, rss = seen.process.cpu_times(), seen.process.memory_info().rss
        except psutil.Error:  # it has gone since: its seconds count, its memory does not
            seen.rss = 0
            return
        seconds = times.user + times.system
        if children:
            seconds += times.children_user + times.children_system
        if seconds < seen.seconds:  # another process under the same number
            self._gone += seen.seconds
        seen.seconds, seen.rss = seconds, rss

    def _since_last(self) -> float:
        now, (then, seconds) = self._clock(), self._last
        if now > then:
            self._percent = max(0.0, 100 * (self.cpu_seconds - seconds) / (now - then))
            self._last = (now, self.cpu_seconds)
        return self._percent


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except OSError:
        return 0.0


def rss_of(pid: int) -> int:
    """Resident bytes of a process; 0 where it has gone."""
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_rss() -> int:
    """The most resident bytes that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def offspring_memory(pid: int) -> int:
    """Resident bytes of the processes that a process has started, and that those have; 0 where it has gone.

    A child of exactly its parent's size is on its way from vfork to exec: it has no memory of its own yet.
    """
    total, parents = 0, [(pid, _size(pid))]
    while parents:
        parent, size = parents.pop()
        for child in children_of(parent):
            own = _size(child)
            if own != size:
                total += own[0]
                parents.append((child, own))
    return total


def _size(pid: int) -> tuple[int, int]:
    """Resident and virtual bytes of a process."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0, 0
    return info.rss, info.vms


def children_of(pid: int) -> list[int]:
    """The processes that a process has started. psutil would read the whole process table for each of them."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return [int(word) for task in tasks for word in _words(f"/proc/{pid}/task/{task}/children")]
    except OSError:  # no Linux, or built without; or one that has gone
        pass
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _words(path: str) -> list[str]:
    with open(path, encoding="ascii") as file:
        return file.read().split()


def private_memory(pid: int) -> int:
    """Bytes that the end of a process would free; 0 where it has gone."""
    import psutil

    try:
        info = psutil.Process(pid).memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "uss", info.rss))


def busy_seconds() -> float:
    """CPU seconds that the cores this process may use have spent since they were started, on whatever; also those that
    another machine on the same host took from them."""
    import psutil

    times = psutil.cpu_times(percpu=True)
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(len(times))
    chosen = [times[core] for core in allowed if core < len(times)]
    return sum(getattr(core, name, 0.0) for core in chosen for name in _BUSY)


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped (SIGSTOP), and so does nothing until it is continued; not for a tracer."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def oom_kills(*, root: str = "/") -> int:
    """How many processes the kernel has killed for memory in our control group, as far as it says."""
    for folder in _cgroup_folders(root, "memory"):
        for line in (*_read(folder, "memory.events").splitlines(), *_read(folder, "memory.oom_control").splitlines()):
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdecimal():
                return int(count)
    return 0

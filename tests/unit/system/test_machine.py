"""Facts about cores, memory, descriptors and samples: fake /proc and /sys trees, real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from process_kit import start, started

from batchmill.system import machine
from batchmill.system.machine import (
    THREAD_VARIABLES,
    Monitor,
    available_memory,
    thread_caps,
    usable_cores,
    worker_count,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, or Linux calls")

V2 = "30 1 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "31 1 0:27 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "32 1 0:28 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


def tree(root: Path, own: str, mounts: str, files: dict[str, str]) -> str:
    contents = {"proc/self/cgroup": own, "proc/self/mountinfo": f"22 1 254:0 / / rw - ext4 /dev/vda rw\n{mounts}"}
    for name, text in {**contents, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return str(root)


def cores(root: str, affinity: int = 16, **environ: str) -> tuple[int, str]:
    return usable_cores(root=root, environ=environ, affinity=affinity)


def python(code: str, prefix: str = "", option: str = "") -> str:
    command = ["sh", "-c", f'{prefix} exec "$0" {option} -c "$1"', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that has run `code` and then waits to be killed."""
    command = [sys.executable, "-c", f"{code}\nprint(flush=True)\nimport time\ntime.sleep(100)"]
    with started(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child


BURN = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"


# ---- cores


def test_affinity_counts_where_nothing_else_limits(tmp_path: Path) -> None:
    assert cores(str(tmp_path)) == (16, "CPU affinity")


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("50000 100000", 1)]
)
def test_a_version_2_quota_is_rounded_up(tmp_path: Path, quota: str, expected: int) -> None:
    root = tree(tmp_path, "0::/", V2.format(top="/"), {"cpu.max": quota})
    assert cores(root) == (expected, "CPU affinity" if expected == 16 else "cgroup CPU quota")


def test_a_quota_anywhere_above_counts_and_the_least_wins(tmp_path: Path) -> None:
    files = {"cpu.max": "800000 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}
    assert cores(tree(tmp_path, "0::/a/b", V2.format(top="/"), files)) == (3, "cgroup CPU quota")


@pytest.mark.parametrize(("quota", "expected"), [("-1", 16), ("250000", 3)])
def test_a_version_1_quota_counts_in_its_own_tree(tmp_path: Path, quota: str, expected: int) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": quota, "cpu,cpuacct/job/cpu.cfs_period_us": "100000"}
    root = tree(tmp_path, "5:memory:/other\n4:cpu,cpuacct:/job/step", V1.format(top="/"), files)
    assert cores(root)[0] == expected


@pytest.mark.parametrize("own", ["/docker/abc", "/docker/abc/sub", "/../elsewhere"])
def test_a_container_sees_its_quota_at_the_mount(tmp_path: Path, own: str) -> None:
    files = {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}
    assert cores(tree(tmp_path, f"4:cpu,cpuacct:{own}", V1.format(top="/docker/abc"), files))[0] == 2


def test_the_least_of_both_versions_counts_where_both_are_mounted(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/night/cpu.cfs_quota_us": "300000",
        "cpu,cpuacct/night/cpu.cfs_period_us": "100000",
        "night/cpu.max": "900000 100000",
    }
    mounts = V1.format(top="/") + "\n" + V2.format(top="/")
    root = tree(tmp_path, "4:cpu,cpuacct:/night/job\n0::/night", mounts, files)
    assert cores(root) == (3, "cgroup CPU quota")
    assert cores(root, SLURM_CPUS_PER_TASK="2") == (2, "SLURM_CPUS_PER_TASK")
    assert cores(root, affinity=1) == (1, "CPU affinity")


@contextmanager
def real_group(*names: str, **files: str) -> Iterator[Path]:
    """A control group with a group inside it, and `files` written to the outer one; skips where that is forbidden."""
    top = next((path for path in map(Path, names) if path.is_dir()), None)
    if top is None:
        pytest.skip("no such control groups are mounted")
    outer = top / f"batchmill-test-{os.getpid()}"
    inner = outer / "inner"
    try:
        try:
            inner.mkdir(parents=True)
            for name, text in files.items():
                (outer / name.replace("__", ".")).write_text(text)
        except OSError as error:
            pytest.skip(f"control groups cannot be made here: {error}")
        yield inner
    finally:
        for path in (inner, outer):
            if path.exists():
                path.rmdir()


SEES = "from batchmill.system.machine import usable_cores; print(*usable_cores(environ={}))"


@linux
def test_a_real_quota_on_the_group_above_counts() -> None:
    with real_group("/sys/fs/cgroup/cpu", cpu__cfs_quota_us="60000", cpu__cfs_period_us="100000") as group:
        assert python(SEES, f"echo $$ >{group}/cgroup.procs;") == "1 cgroup CPU quota"


@linux
def test_a_real_quota_of_version_2_counts() -> None:
    with real_group("/sys/fs/cgroup/system.slice", cpu__max="60000 100000") as group:
        assert python(SEES, f"echo $$ >{group}/cgroup.procs;") == "1 cgroup CPU quota"


@linux
def test_a_real_set_of_cpus_counts_as_affinity() -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    with real_group("/sys/fs/cgroup/cpuset", cpuset__cpus=cpu, cpuset__mems="0") as group:
        for name in ("cpuset.cpus", "cpuset.mems"):
            (group / name).write_text((group.parent / name).read_text())
        assert python(SEES, f"echo $$ >{group}/cgroup.procs;").startswith("1 ")


def test_slurm_and_python_limits_count_and_nonsense_does_not(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert cores(root, SLURM_CPUS_PER_TASK="6") == (6, "SLURM_CPUS_PER_TASK")
    assert cores(root, SLURM_CPUS_PER_TASK="6", PYTHON_CPU_COUNT="2") == (2, "PYTHON_CPU_COUNT")
    for nonsense in ("", "default", "0", "-3", "x", "9" * 5000):
        assert cores(root, PYTHON_CPU_COUNT=nonsense, SLURM_CPUS_PER_TASK=nonsense) == (16, "CPU affinity")


@pytest.mark.parametrize(
    ("option", "variable", "source"),
    [
        ("-X cpu_count=1", "", "-X cpu_count"),
        ("-X cpu_count=1", "3", "-X cpu_count"),  # which overrules the variable
        ("", "1", "PYTHON_CPU_COUNT"),
        ("-X cpu_count=default", "1", None),
        ("-X cpu_count=5000", "", None),
        ("", "5000", None),
    ],
)
def test_what_python_was_told_counts_where_it_is_less(option: str, variable: str, source: str | None) -> None:
    """From Python 3.13 on os.cpu_count() gives that number, whatever the machine has."""
    code = "from batchmill.system.machine import usable_cores; print(*usable_cores())"
    bare = python(code, "unset PYTHON_CPU_COUNT;")
    told = python(code, f"export PYTHON_CPU_COUNT={variable};", option)
    assert told == (bare if source is None or bare.startswith("1 ") else f"1 {source}")


def test_the_real_machine_gives_at_least_one_core() -> None:
    number, source = usable_cores()
    assert 1 <= number <= (os.cpu_count() or 1)
    assert source


@linux
def test_a_process_bound_to_one_core_has_one() -> None:
    bind = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    see = "from batchmill.system.machine import usable_cores; print(usable_cores(environ={})[0])"
    assert python(f"{bind}; {see}") == "1"


def test_workers_are_given_automatic_or_a_share(tmp_path: Path) -> None:
    def count(setting: str | int, affinity: int) -> tuple[int, str]:
        return worker_count(setting, root=str(tmp_path), environ={}, affinity=affinity)

    assert count(8, 2) == (8, "workers")
    assert count("auto", 12) == (12, "CPU affinity")
    assert count("50%", 12) == (6, "50% of 12 (CPU affinity)")
    assert [count(share, 100)[0] for share in ("29%", "0.1%", "200%", "12.5%")] == [29, 1, 200, 12]


def test_libraries_get_their_share_of_threads_unless_the_user_set_it() -> None:
    assert thread_caps(4, 16, {}) == dict.fromkeys(THREAD_VARIABLES, "4")
    assert set(thread_caps(64, 16, {}).values()) == {"1"}
    assert "MKL_NUM_THREADS" not in thread_caps(4, 16, {"MKL_NUM_THREADS": "9"})


def test_who_sets_omp_threads_means_the_libraries_that_follow_it() -> None:
    assert set(thread_caps(4, 16, {"OMP_NUM_THREADS": "2"})) == {"VECLIB_MAXIMUM_THREADS", "NUMBA_NUM_THREADS"}


# ---- memory, descriptors, file systems


def test_memory_of_a_version_2_group_counts_its_cache_as_free(tmp_path: Path) -> None:
    files = {"a/memory.max": "1000000", "a/memory.current": "900000", "a/memory.stat": "anon 5\ninactive_file 300000"}
    assert available_memory(root=tree(tmp_path, "0::/a", V2.format(top="/"), files)) == 400000


def test_memory_of_a_version_1_group_counts_too(tmp_path: Path) -> None:
    files = {
        "memory/a/memory.limit_in_bytes": "1000000",
        "memory/a/memory.usage_in_bytes": "1200000",
        "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 50000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "1200000",
    }
    assert available_memory(root=tree(tmp_path, "4:memory:/a", V1_MEMORY.format(top="/"), files)) == 0


def test_memory_without_groups_is_the_machines(tmp_path: Path) -> None:
    assert available_memory(root=str(tmp_path)) > 2**20
    files = {"memory.max": "max", "memory.current": "1"}
    assert available_memory(root=tree(tmp_path, "0::/", V2.format(top="/"), files)) > 2**20


WORKERS = """
import resource
from batchmill.system.machine import raise_descriptor_limit
print(raise_descriptor_limit({}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_soft_limit_is_raised_as_far_as_the_workers_need() -> None:
    workers, soft = python(WORKERS.format(100), "ulimit -Hn 4096; ulimit -Sn 64;").split()
    assert workers == "100"
    assert 800 < int(soft) < 1000


def test_a_hard_limit_caps_the_workers() -> None:
    workers, soft = python(WORKERS.format(100), "ulimit -n 128;").split()
    assert 5 <= int(workers) <= 13
    assert soft == "128"
    assert python(WORKERS.format(100), "ulimit -n 16;").split()[0] == "1"


def test_a_limit_that_suffices_is_left_alone() -> None:
    assert python(WORKERS.format(2), "ulimit -Sn 256;").split() == ["2", "256"]


# ---- samples


def test_the_command_line_does_not_pay_for_psutil() -> None:
    assert python("import sys, batchmill.system.machine; print('psutil' in sys.modules)") == "False"


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_sample_sums_parent_and_workers() -> None:
    clock = Clock()
    monitor = Monitor(clock)
    with process(f"data = bytearray(b'x') * 50_000_000\n{BURN.format(0.2)}") as worker:
        clock.now += 2
        usage = monitor.sample([worker.pid])
    assert usage.rss >= usage.parent_rss + 50_000_000
    assert monitor.peak_rss == usage.rss
    assert monitor.cpu_seconds >= 0.2
    assert usage.cpu_percent == pytest.approx(100 * monitor.cpu_seconds / 2)
    assert usage.load >= 0


def test_percent_is_of_the_time_since_the_last_sample() -> None:
    clock = Clock()
    monitor = Monitor(clock)
    with process(BURN.format(0.2)) as worker:
        clock.now += 1
        busy = monitor.sample([worker.pid]).cpu_percent
        assert monitor.sample([worker.pid]).cpu_percent == busy  # no time has passed: the last value stands
        clock.now += 1000
        assert monitor.sample([worker.pid]).cpu_percent < busy / 10


def test_a_dead_worker_keeps_its_seconds_and_gives_back_its_memory() -> None:
    monitor = Monitor()
    with process(f"data = bytearray(b'x') * 50_000_000\n{BURN.format(0.2)}") as worker:
        alive = monitor.sample([worker.pid])
    used = monitor.cpu_seconds
    for pids in ([worker.pid], [], [worker.pid, 2**22 + 1]):
        dead = monitor.sample(pids)
        assert monitor.cpu_seconds >= used >= 0.2
        assert dead.rss <= alive.rss - 40_000_000
    assert monitor.peak_rss >= alive.rss


@linux
def test_a_worker_that_ended_but_was_not_waited_for_does_no_harm() -> None:
    monitor = Monitor()
    with process("") as worker:
        monitor.sample([worker.pid])
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
        usage = monitor.sample([worker.pid])
        assert usage.rss == usage.parent_rss


@linux
def test_what_a_worker_started_counts_once_it_has_ended() -> None:
    monitor = Monitor()
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN.format(0.3)!r}])"
    with process(code) as worker:
        monitor.sample([worker.pid])
    assert monitor.cpu_seconds >= 0.3


@linux
def test_memory_of_what_a_worker_started_counts_where_it_is_asked_for() -> None:
    grandchild = "held = b'x' * 50_000_000; print('up', flush=True); input()"
    shell = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, grandchild]
    command = [sys.executable, "-c", f"import subprocess; subprocess.run({shell!r})"]
    worker = start(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    try:
        assert worker.stdout.readline() == b"up\n"
        plain, whole = Monitor(), Monitor(offspring=True)
        assert whole.sample([worker.pid]).rss - plain.sample([worker.pid]).rss > 50_000_000
    finally:
        worker.communicate(b"\n", timeout=60)
    assert machine.offspring_memory(worker.pid) == 0


def test_seconds_before_the_monitor_are_not_counted() -> None:
    while sum(os.times()[:2]) < 0.5:
        pass
    monitor = Monitor()
    monitor.sample([])
    assert monitor.cpu_seconds < 0.4

"""The lines above every table: the machine and the versions a figure was measured with."""

from __future__ import annotations

import datetime as dt
import os
import platform
from importlib.metadata import version


def describe() -> str:
    """Date, processor, cores, memory, kernel, Python and the packages that matter, one line each."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("batchmill", "msgpack", "psutil", "click"))
    return "\n".join(
        (
            f"date      {dt.date.today()}",
            f"machine   {_processor()}, {cores} cores, {memory:.0f} GiB, load {os.getloadavg()[0]:.2f}",
            f"system    {platform.system()} {platform.release()}, Python {platform.python_version()}",
            f"versions  {packages}",
        )
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()

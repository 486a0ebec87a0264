"""The proof that one line in a real crontab comes through: its first run is stopped by --time-limit, its second
finishes.

Debian's cron runs in namespaces of its own, with a spool, an empty /etc/cron.d and a sendmail that only writes down
what it gets; whatever happens, the kernel ends them with this program. Takes two to three minutes, root, and `apt-get
install cron`. Ends with status 1 where a fact does not hold.

    python bench/cron_twice.py [--items 500] [--seconds 0.1] [--limit 20]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

FUNCTION = """
import os, time
WITNESS = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def work(item):
    os.write(WITNESS, b"%d\\n" % item["id"])
    time.sleep(item["seconds"])
    return item["id"] ** 2
"""
# $1 is the directory of the trial. What is mounted here is seen by cron alone.
DAEMON = """
set -eu
mount -t tmpfs none /run
mount -t tmpfs none /etc/cron.d
mount --bind /dev/null /etc/crontab
mount -t tmpfs -o mode=755 none /var/spool/cron
install -d -m 1730 -g crontab /var/spool/cron/crontabs
install -m 600 -g crontab "$1/crontab" /var/spool/cron/crontabs/root
mount --bind "$1/sendmail" "$(readlink -f /usr/sbin/sendmail)"
exec cron -f
"""
SENDMAIL = """#!/bin/sh
exec cat >"{folder}/mail.$(date +%s%N)"
"""
PATIENCE = 240.0  # seconds for the second run to end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0.1, help="that an item takes")
    parser.add_argument("--limit", type=int, default=20, help="seconds of --time-limit")
    options = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("cron", "unshare", "sendmail"))):
        sys.exit("needs root, and cron with a sendmail: apt-get install cron")
    print(describe())
    with tempfile.TemporaryDirectory(prefix="batchmill-cron-") as name:
        folder = Path(name)
        prepare(folder, options)
        print(f"\n{(folder / 'crontab').read_text()}")
        watch(folder)
        sys.exit(0 if judge(folder, options) else 1)


def prepare(folder: Path, options: argparse.Namespace) -> None:
    """The job, its crontab and the sendmail."""
    (folder / "work.py").write_text(FUNCTION)
    lines = (json.dumps({"id": number, "seconds": options.seconds}) + "\n" for number in range(options.items))
    (folder / "items.jsonl").write_text("".join(lines))
    batch = f"run work.py:work items.jsonl -o out.jsonl -j 2 --resume --time-limit {options.limit}s"
    began, ended = "date +\\%s.\\%N >>began", 'echo "$? $(date +\\%s.\\%N)" >>ended'
    line = f"* * * * * cd {folder} && {began} && {sys.executable} -m batchmill {batch}; {ended}\n"
    (folder / "crontab").write_text(f"MAILTO=root\n{line}")
    (folder / "sendmail").write_text(SENDMAIL.format(folder=folder))
    (folder / "sendmail").chmod(0o755)


def watch(folder: Path) -> None:
    """Let cron run until the line has run twice."""
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", DAEMON, "cron"]
    daemon = subprocess.Popen([*command, str(folder)], start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while len(endings(folder)) < 2:
            if daemon.poll() is not None:
                sys.exit(f"cron ended with status {daemon.returncode}")
            if time.monotonic() > deadline:
                sys.exit(f"the line did not run twice within {PATIENCE:g} s")
            time.sleep(0.2)
        time.sleep(1.0)  # for cron to send what it has to send
    finally:
        daemon.kill()
        daemon.wait()


def endings(folder: Path) -> list[tuple[int, float]]:
    """(exit status, when) of each run of the line."""
    path = folder / "ended"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(status), float(when)) for status, when in (line.split() for line in lines)]


def judge(folder: Path, options: argparse.Namespace) -> bool:
    """Print what happened, and whether every fact holds."""
    began = [float(when) for when in (folder / "began").read_text().split()]
    ended = endings(folder)
    for number, (begin, (status, end)) in enumerate(zip(began, ended), 1):
        print(f"run {number}  {time.strftime('%H:%M:%S', time.localtime(begin))}  {end - begin:5.2f} s  exit {status}")
    mails = [path.read_text() for path in sorted(folder.glob("mail.*"))]
    for mail in mails:
        print("\nmail\n" + "".join(f"    {line}\n" for line in mail.splitlines()))
    witness = (folder / "witness").read_text().split()
    results = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    facts = {
        "the first run was stopped, the second finished": [status for status, _ in ended[:2]] == [3, 0],
        f"the first was over within {options.limit} s": ended[0][1] - began[0] <= options.limit,
        "one mail in all, from the first": len(mails) == 1 and "stopped by --time-limit" in mails[0],
        "every item ran once": sorted(map(int, witness)) == list(range(options.items)),
        "all results, in order": results == [{"id": n, "result": n**2} for n in range(options.items)],
        "nothing partial is left": not (folder / "out.jsonl.partial").exists(),
    }
    for fact, holds in facts.items():
        print(f"{'yes' if holds else 'NO':3}  {fact}")
    return all(facts.values())


if __name__ == "__main__":
    main()

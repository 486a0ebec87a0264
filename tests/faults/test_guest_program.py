"""A program with pools, threads, a loop, signals and children of its own prints the same with batches and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from process_kit import LIMIT, started

PLACES = "before,in a thread,asyncio,two at once,during,child,after"
SCRIPT = '''
import asyncio, atexit, concurrent.futures, contextlib, logging, multiprocessing, os, signal, subprocess, sys, threading

method, places = sys.argv[1], sys.argv[2].split(",")
if places != ["nowhere"]:
    import batchmill


def double(n):
    return 2 * n


def batch():
    assert batchmill.map(double, [1, 2, 3], workers=1) == [2, 4, 6]


@contextlib.contextmanager
def beside(place):
    """What is done in the block has a batch beside it."""
    if place not in places:
        yield
        return
    with batchmill.stream(double, iter(range(10**7)), workers=1) as outcomes:
        next(iter(outcomes))
        yield


async def loop():
    command = ["sh", "-c", "read word; echo $word; exit 3"]
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    batches = [asyncio.to_thread(batch) for place in places if place in ("asyncio", "two at once")]
    said, slept, *_ = await asyncio.gather(process.communicate(b"word"), asyncio.sleep(0.01, "slept"), *batches)
    return said, process.returncode, slept


def in_child():
    if "child" in places:
        batch()
    logging.info("in a child")
    sys.stdout.flush()
    os._exit(7)


def work():
    context = multiprocessing.get_context()
    with context.Pool(2, initializer=os.umask, initargs=(0o77,)) as pool:
        print(pool.map(double, [1, 2]), pool.apply_async(os.getcwd).get(60))
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        print(list(executor.map(double, [3, 4])), executor.submit(signal.getsignal, signal.SIGTERM).result(60))
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        print(list(threads.map(double, [5, 6])))
    process = context.Process(target=signal.raise_signal, args=(signal.SIGTERM,))
    process.start()
    process.join(60)
    shell = "pwd; umask; env | grep -v ^_= | sort; ls /proc/self/fd; grep Sig[BIC] /proc/self/status; cat"
    print(process.exitcode, subprocess.check_output(["sh", "-c", shell], input="in", text=True, close_fds=False))
    print(asyncio.run(loop()))
    for number in (signal.SIGUSR1, signal.SIGALRM):
        signal.raise_signal(number)


if __name__ == "__main__":
    multiprocessing.set_start_method(method)
    logging.basicConfig(stream=sys.stdout, level="INFO", format="%(threadName)s: %(message)s")
    for number in (signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, lambda number, frame: logging.info("signal %d", number))
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    atexit.register(print, "ended")
    os.environ["OWN"] = "1"
    os.chdir("/")
    thread = threading.Thread(target=batch if "in a thread" in places else os.getpid)
    if "before" in places:
        batch()
    thread.start()
    with beside("during"):
        work()
    thread.join(60)
    if "after" in places:
        batch()
    print(os.waitstatus_to_exitcode(os.waitpid(os.fork() or in_child(), 0)[1]))
    print(len(os.listdir("/proc/self/fd")), threading.active_count(), multiprocessing.active_children(), os.getcwd())
    print([signal.getsignal(number).__class__.__name__ for number in signal.valid_signals()])
    print(signal.pthread_sigmask(signal.SIG_BLOCK, []), dict(os.environ), os.umask(0o22))
'''


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_program_says_the_same_with_batches_as_without(method: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    said = []
    for places in ("nowhere", PLACES):
        command = [sys.executable, "script.py", method, places]
        pipe = subprocess.PIPE
        with started(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as process:
            said.append((*process.communicate(timeout=LIMIT), process.returncode))
    assert said[0] == said[1]
    assert said[0][1:] == (b"", 0)

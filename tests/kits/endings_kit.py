"""Items that do all they can to keep their worker from ending. Tests nothing."""

from __future__ import annotations

ENDINGS = """
import atexit, concurrent.futures, ctypes, os, signal, subprocess, sys, threading, time

kept = []


def note(word):
    witness = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (word + "\\n").encode())
    os.close(witness)


def thread():
    threading.Thread(target=time.sleep, args=(1000,)).start()


def timer():
    threading.Timer(1000, print).start()


def executor():
    pool = concurrent.futures.ThreadPoolExecutor(1)
    kept.extend(pool.submit(time.sleep, 1000) for _ in range(3))


def exit_handler():
    atexit.register(time.sleep, 1000)
    threading._register_atexit(time.sleep, 1000)


def blocks_term():
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def child_in_its_own_session():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True))


def grandchild_without_a_parent():
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'])"
    subprocess.run([sys.executable, "-c", code], start_new_session=True)


def closes_its_descriptors():
    os.closerange(3, 256)


def stops_itself():
    os.kill(os.getpid(), signal.SIGSTOP)


def holds_the_interpreter():
    ctypes.PyDLL(None).sleep(1000)


def work(item):
    note(item["id"])
    globals()[item["id"]]()
    note("done " + item["id"])
    time.sleep(item["then"])
    return item["id"]
"""
INNOCENT = ("thread", "timer", "executor", "exit_handler", "blocks_term", "child_in_its_own_session")
ORPHANS = ("grandchild_without_a_parent",)  # found again by the fork server alone: a fork of the program has none
GUILTY = ("closes_its_descriptors", "stops_itself", "holds_the_interpreter")

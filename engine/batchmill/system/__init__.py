"""What the operating system gives, and what is said where it gives no more.

    machine      cores, memory, descriptors, samples of processes: the only module that uses psutil
    scarcity     processes, threads, memory, open files or room are used up: which of them, in one sentence
    children     how a child process ended, what it has started, and ending all of that
    interpreter  the command line of a Python that runs our code and nobody else's
    threads      starting a thread, which the system may refuse

May import: ground.
"""

__all__ = ["children", "interpreter", "machine", "scarcity", "threads"]

"""Worker processes, as the parent has them.

    base           a worker and a pool of them, wherever they are: what each was given, how far it is, its end
    local          the pool of this machine
    startup        how workers come up: the first alone, then the rest, and when to give up
    processes      a worker's process: starting it by any method, ending it
    executor       the one adapter to ProcessPoolExecutor, and the list of what it uses of its inside
    forkserver     the fork server, as the parent has it; `forkserver_main`: its process
    worker_limits  time per item, memory, items per worker; `watchdog`: when an item has taken too long

May import: ground, system, files, worker.
"""

__all__ = ["base", "forkserver", "forkserver_main", "local", "processes", "startup", "worker_limits"]

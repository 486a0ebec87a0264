"""Files that must be whole, or must not be lost, or must not be mixed up.

    storage         the system calls: open, lock, write all of it, sync, link
    atomic_file     new files that get their name only once they are whole
    anonymous_file  files without a name, in memory where the system has that
    mapped_pickle   pickles whose large buffers are there once for all processes that read them
    conflicts       which files a command reads and writes, and which two uses of one file are refused

May import: ground, system.
"""

__all__ = ["anonymous_file", "atomic_file", "conflicts", "mapped_pickle", "storage"]

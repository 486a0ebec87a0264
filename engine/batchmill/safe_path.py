"""Owns one side effect: importing it takes the working directory off sys.path. Never imported but by the fork server.

The fork server runs `python -c`, so the working directory is first on its path, and a user's msgpack.py there would be
imported in place of ours (TRAPS.md 1). It preloads this module before any other.
"""

import sys

if sys.path and sys.path[0] == "":
    del sys.path[0]

"""Batchmill's command line.

Start reading at `main` (from an error to an exit status), then `group` (the commands), `commands.run` (one of them) and
`running.batch` (the course of a batch).
"""

import time

BEGAN = time.monotonic()  # when the program did: --time-limit counts from here

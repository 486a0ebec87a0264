"""`python -m batchmill`, the same program as `batchmill`.

`python -m` puts the working directory first on the path, where a user's own `click.py` or `msgpack.py` would be taken
for ours. With -P, -I or PYTHONSAFEPATH it does not, and the first entry is one that is needed.
"""

import sys

if not sys.flags.safe_path and not sys.flags.isolated and sys.path:
    del sys.path[0]

from batchmill_cli.main import entry

if __name__ == "__main__":
    entry()

"""An output while it is written; a name is for whole ones only."""

from __future__ import annotations

from contextlib import closing

from batchmill.errors import OutputLost
from batchmill.files.atomic_file import Draft
from batchmill.files.storage import write_whole
from batchmill.output.by_name import Packer
from batchmill.output.columns import Asked, TableStyle
from batchmill.output.rows import opening

STDOUT = "-"


class Target:
    """Bytes on their way to stdout or to a file that has no name yet, through a packer where there is one."""

    def __init__(self, name: str, draft: Draft, packer: Packer | None = None) -> None:
        self._name = name
        self._packer = packer
        self._draft = draft
        self._is_open = name != STDOUT

    def begin(self, asked: Asked, table: TableStyle) -> None:
        """Write what comes before all else, once; raises OSError."""
        self.write(opening(asked, table))

    def write(self, data: bytes) -> None:
        """Write all of it; raises OSError."""
        write_whole(self._draft.fd, data if self._packer is None else self._packer.compress(data))

    def close(self, keep: str) -> str | None:
        """Give the file its name (`keep` "whole"), or `.partial` behind it ("partial"), or none: once. Returns it.

        The file then is on the disk under that name. Raises OutputLost.
        """
        if not self._is_open:
            return None
        self._is_open = False
        path = self._draft.path
        name = {"whole": path, "partial": f"{path}.partial"}.get(keep)
        try:
            with closing(self._draft):
                self._end(is_kept=name is not None)
                if name is not None:
                    self._draft.publish(name)
        except OSError as error:
            raise OutputLost(f"cannot write {self._name}: {error.strerror}", "the checkpoint is complete") from None
        return path if self._draft.temporary is None and name is not None else name

    def _end(self, is_kept: bool) -> None:
        """Write what is still to be written."""
        if is_kept and self._packer is not None:
            write_whole(self._draft.fd, self._packer.flush())

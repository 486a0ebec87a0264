"""The count of what an output could not say as it was, and the sentences about it."""

from __future__ import annotations

from batchmill.text import plural
from batchmill.value_class import value_class


@value_class
class Unsaid:
    """What of an output is not what it was.

    `numbers` were not finite and became null; `maps` have keys that JSON cannot tell apart, such as those of
    `example`, and became arrays of pairs; of the `outputs` of commands only the beginning was kept; `texts`, of so
    many items, are no valid Unicode. Two of them add up.
    """

    numbers: int = 0
    maps: int = 0
    outputs: int = 0
    texts: int = 0
    example: str = ""

    def __add__(self, other: Unsaid) -> Unsaid:
        if not other:
            return self
        return Unsaid(
            self.numbers + other.numbers,
            self.maps + other.maps,
            self.outputs + other.outputs,
            self.texts + other.texts,
            self.example or other.example,
        )

    def __bool__(self) -> bool:
        return bool(self.numbers or self.maps or self.outputs or self.texts)

    def sentences(self) -> list[str]:
        """What to tell a person, a line each."""
        told = []
        if self.numbers:
            were = "was" if self.numbers == 1 else "were"
            told.append(f"{plural(self.numbers, 'number')} that JSON cannot say (NaN, infinity) {were} written as null")
        if self.maps:
            what, is_written = ("has", "it is an array") if self.maps == 1 else ("have", "they are arrays")
            keys = f"keys that are one text in JSON (such as {self.example})"
            told.append(f"{plural(self.maps, 'map')} {what} {keys}: {is_written} of [key, value] pairs")
        if self.outputs:
            beginning = "is cut off, for only its" if self.outputs == 1 else "are cut off, for only their"
            told.append(f"{plural(self.outputs, 'output')} {beginning} beginning was kept (see --keep-output of exec)")
        if self.texts:
            why = "names of files in another encoding, mostly"
            told.append(f"In {plural(self.texts, 'item')}, what is no valid Unicode ({why}) was written as \\udNNN")
        return told


NOTHING = Unsaid()

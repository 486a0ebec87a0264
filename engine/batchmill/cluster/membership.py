"""Which nodes of a cluster take part in a run, and with how many workers.

A node moves by this table; any other event raises IllegalMove and leaves everything as it was:

    state      event      next       and then
    -          invited    JOINING    its share of the workers is kept for it
    JOINING    joined     IN         earlier failures are forgotten
    JOINING    failed     RESTING    it is invited again after a pause, which doubles
    JOINING    failed     REFUSED    the same, for the MOST-th time in a row
    JOINING    refused    REFUSED
    IN         refused    REFUSED    a worker of it has shown that it cannot work for this run
    IN         lost       -          it may join again: what was lost may have been the connection
    RESTING    invited    JOINING
    any        left       -          the scheduler does not know it any more
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from batchmill.errors import BatchmillError, IllegalMove

MOST = 4  # times in a row that a node may fail to join
PAUSE = 1.0  # seconds after the first of those


class MemberState(Enum):
    """How a node stands to the run."""

    JOINING = "joining"
    IN = "in"
    RESTING = "resting"
    REFUSED = "refused"


class _Member:
    def __init__(self) -> None:
        self.state = MemberState.JOINING
        self.workers = 0
        self.failures = 0
        self.again = 0.0  # when it may be invited again, monotonic seconds


class Membership:
    """The nodes of a cluster, by address. `wanted` are the workers asked for: a number, a share ("50%"), or
    "auto"."""

    def __init__(self, wanted: int | str) -> None:
        self._wanted = wanted
        self._members: dict[str, _Member] = {}
        self._errors: dict[str, BatchmillError] = {}

    def share(self, threads: int) -> int:
        """How many workers a node with `threads` threads may have: one a thread, a share of them, or at most -j."""
        if isinstance(self._wanted, int):
            return min(threads, self._wanted)
        if self._wanted == "auto":
            return threads
        return max(1, int(threads * float(self._wanted.rstrip("%")) / 100 + 1e-9))

    def most(self, sizes: Mapping[str, int]) -> int:
        """How many workers there can be with nodes of these numbers of threads; at least one."""
        workers = sum(map(self.share, sizes.values()))
        return max(1, min(workers, self._wanted) if isinstance(self._wanted, int) else workers)

    # Events

    def invite(self, sizes: Mapping[str, int], now: float) -> dict[str, int]:
        """Which nodes, given with their threads, are to join now, and with how many workers; `now` is monotonic."""
        invited = {}
        for name, threads in sizes.items():
            member = self._members.get(name)
            if member is not None and not (member.state is MemberState.RESTING and now >= member.again):
                continue
            workers = self.share(threads)
            if isinstance(self._wanted, int):
                workers = min(workers, self._wanted - sum(other.workers for other in self._members.values()))
            if workers > 0:
                member = self._members.setdefault(name, _Member())
                member.state, member.workers = MemberState.JOINING, workers
                invited[name] = workers
        return invited

    def joined(self, name: str) -> None:
        """A node's agent is there."""
        member = self._at(name, MemberState.JOINING)
        member.state, member.failures = MemberState.IN, 0

    def failed(self, name: str, now: float, error: BatchmillError) -> bool:
        """A node could not join, for a reason that may pass; whether it was tried so often that it is refused."""
        member = self._at(name, MemberState.JOINING)
        member.failures += 1
        member.workers = 0
        member.state = MemberState.RESTING
        member.again = now + PAUSE * 2 ** (member.failures - 1)
        if member.failures == MOST:
            member.state, self._errors[name] = MemberState.REFUSED, error
        return member.state is MemberState.REFUSED

    def refused(self, name: str, error: BatchmillError) -> None:
        """A node cannot take part, and never will."""
        member = self._at(name, MemberState.JOINING, MemberState.IN)
        member.state, member.workers, self._errors[name] = MemberState.REFUSED, 0, error

    def lost(self, name: str) -> None:
        """A node's agent has ended, or cannot be reached."""
        self._at(name, MemberState.IN)
        del self._members[name]

    def left(self, sizes: Mapping[str, int]) -> list[str]:
        """Forget the nodes that are not there any more; who they are."""
        gone = self._members.keys() - sizes.keys()
        for name in gone:
            del self._members[name]
            self._errors.pop(name, None)
        return list(gone)

    # Questions

    def has(self, name: str) -> bool:
        """Whether the node is known, in whatever state: it has not left meanwhile."""
        return name in self._members

    def is_in(self, name: str) -> bool:
        """Whether the node takes part."""
        return name in self._members and self._members[name].state is MemberState.IN

    @property
    def are_coming(self) -> bool:
        """Whether somebody is about to join."""
        return any(member.state is MemberState.JOINING for member in self._members.values())

    @property
    def unfit(self) -> BatchmillError | None:
        """Why no node can take part, where all of them were refused; else None."""
        is_hopeless = self._members and all(member.state is MemberState.REFUSED for member in self._members.values())
        return next(iter(self._errors.values())) if is_hopeless else None

    def _at(self, name: str, *states: MemberState) -> _Member:
        member = self._members.get(name)
        if member is None or member.state not in states:
            stands = "is not known" if member is None else f"is {member.state.value}"
            raise IllegalMove(f"node {name} {stands}")
        return member

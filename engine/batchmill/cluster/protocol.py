"""The messages between a run and the agent that has its workers on another machine: as values and as bytes.

A message is a msgpack array that begins with a word. To the agent, after the environment of its workers (a pickled
dict) and the setup (a pickled AgentSetup):

    start slot | submit slot number call | lower slot serial offset | kill slot | end slot | go serial | ack
    bye | stop

`bye` lets workers end that are idle, `stop` ends all at once. `call` is a pickle of (function of batchmill, arguments).
From the agent:

    up pid | started slot pid | reply slot number result | alone serial | lowered standing | retire slot
    board standings moving cpu rss short | gone standing death | output bytes | message text
    unfit text | broken text

A standing is what the board says of a worker: its slot, the number of the record at hand, that of the last one opened;
in `board` each is an array of its own.

`reply` holds the pickle of what the call returned (for a chunk: the msgpack reply, unopened, and its summary); `board`
the standings of all workers, the slots of those that were at another record a moment before, the CPU seconds of the
agent and its workers so far, their resident bytes, and whether memory is short. It comes when a worker begins to stand
still or stops doing so, and now and then. `death` is a Death. `alone` says that nothing else runs there, and with 0
that this is over; the chunk, and with 0 what came after it, begins at the `go` that answers it. `ack` says that an
`output` was printed: an agent has but a few on their way. `up` comes when the agent is ready, `unfit` when it cannot
work here, `broken` when it ends with a defect of ours. On a pipe each message follows its length, a big-endian u32. The
empty message (PULSE) says that the run is still there.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from batchmill.files.mapped_pickle import Pickled
from batchmill.settings import Settings
from batchmill.value_class import value_class
from batchmill.worker.main import WorkerSetup

LENGTH = struct.Struct(">I")
PULSE = b""
LEASE = 15.0  # seconds that an agent and its workers live on without hearing of their run


@value_class
class AgentSetup:
    """What an agent needs to know: the `slots` of its workers, what each of them is to be, and the limits it sees to.

    `arguments` are pickled. `files` are the user's own modules (see code_bundle). The agent ends after `lease` seconds
    without a message.
    """

    slots: range
    worker: WorkerSetup
    arguments: Pickled
    limits: Settings
    files: dict[str, dict[str, bytes]]
    lease: float = LEASE


class Death(NamedTuple):
    """How a worker ended: its exit status, whether an item had closed its pipe, the error that it was killed for (type,
    message), what points to memory as the cause, why it never began (a process could not be started), and what was
    raised there where no item was at work."""

    code: int | None = None
    disconnected: bool = False
    error: tuple[str, str] | None = None
    memory: str | None = None
    unstarted: str = ""
    raised: str = ""


def pack(*message: Any) -> bytes:
    """A message as bytes."""
    packed: bytes = msgpack.packb(message)
    return packed


def unpack(data: bytes) -> list[Any]:
    """The message that `pack` made into bytes."""
    message: list[Any] = msgpack.unpackb(data, max_bin_len=2**31 - 1)
    return message


def framed(message: bytes) -> bytes:
    """A message as it goes through a pipe."""
    return LENGTH.pack(len(message)) + message


def read_message(read: Callable[[int], bytes]) -> bytes | None:
    """The next message from a pipe, whose `read(n)` gives exactly n bytes unless it has ended; then None."""
    head = read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = read(length)
    return data if len(data) == length else None


def pickled(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """A call of one of batchmill's own functions, by name."""
    return pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)

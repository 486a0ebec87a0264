"""One race: many processes that come to one checkpoint at once, each with options of its own.

    python race_work.py FOLDER SEED PROCESSES

Each works as a run does, without workers, ends in one of several ways, and appends one JSON line to FOLDER/witness.
"""

from __future__ import annotations

import json
import os
import queue
import random
import sys
import time
from typing import Any

from checkpoint_kit import outcomes_payload, read_frames
from race_kit import CHECKPOINT, CHOICES, ITEMS, META, end, ids_in

from batchmill.checkpoint.frames import HEADER_SIZE, FrameType
from batchmill.checkpoint.history import History
from batchmill.checkpoint.resume import begin_run, open_checkpoint_for, patiently, seconds_of
from batchmill.checkpoint.writer import Checkpoint
from batchmill.errors import BatchmillError
from batchmill.settings import Settings

HOW = ("to the end", "to the end", "stopped", "killed")


def main() -> None:
    folder, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.chdir(folder)
    chance = random.Random(seed)
    ready, go = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            os.close(go)
            os.read(ready, 1)
            take_part(random.Random(f"{seed}/{number}"))
        children.append(child)
    time.sleep(chance.uniform(0, 0.02))
    os.close(go)
    for child in children:
        os.waitpid(child, 0)


def take_part(chance: random.Random) -> None:
    """Come to the checkpoint some time soon; ends the process."""
    name = chance.choice(list(CHOICES))
    told: dict[str, Any] = {"choice": name, "status": 0, "said": [], "ran": [], "file": "", "how": chance.choice(HOW)}
    time.sleep(chance.choice((0.0, 0.0, chance.uniform(0, 0.1))))
    try:
        work(told, Settings(**CHOICES[name]), chance)
    except BatchmillError as error:
        told.update(status=error.exit_code, error=str(error))
    except BaseException as error:
        told.update(status=70, error=repr(error))
    witness = os.open("witness", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(witness, (json.dumps(told) + "\n").encode())
    os._exit(0)


def work(told: dict[str, Any], settings: Settings, chance: random.Random) -> None:
    checkpoint, history = opened(told, settings)
    told["file"] = os.pread(checkpoint.fileno(), HEADER_SIZE, 0).hex()  # which has the id
    done = {id for _, payload in read_frames(CHECKPOINT) for id in ids_in(payload)} if len(history.index) else set()
    run = begin_run(checkpoint, history, {})
    left = [item for item in ITEMS if item not in done]
    pause = chance.choice((0.0, 0.002, 0.1))
    for item in left if told["how"] == "to the end" else left[: chance.randint(0, len(left))]:
        time.sleep(pause)
        checkpoint.append(FrameType.OUTCOMES, outcomes_payload(ITEMS.index(item), [item]))
        told["ran"].append(item)
    if told["how"] == "killed":
        return
    stopped = "" if told["how"] == "to the end" else "limit"
    checkpoint.append(FrameType.END, end(run["run"], stopped))
    checkpoint.close()


def opened(told: dict[str, Any], settings: Settings) -> tuple[Checkpoint, History]:
    """As a run opens its checkpoint."""
    return patiently(
        lambda: open_checkpoint_for(CHECKPOINT, META, settings, lambda error: None, told["said"].append),
        CHECKPOINT,
        queue.SimpleQueue(),
        told["said"].append,
        wait=seconds_of(settings.wait),
        deadline=float("inf"),
    )


if __name__ == "__main__":
    main()

"""The checkpoint: a journal of frames, what it says is done, and what it says happened.

    frames       the format of the file (start here); `payloads`: what each type of frame must hold
    writer       the file of a run: create, lock, append, sync, close
    recovery     what a crash left at the end of the file, and how it is cut
    name_lock    who has a checkpoint's name; `moved_aside`: where an older one goes
    reader       reading it, live or dead; `salvage`: damaged; `compaction`: anew, without what was superseded
    index        which outcomes there are and where; `moves`: those moved alone; `removed`: those that left the input
    history      what earlier runs said
    matching     the input held against the index: which items are done; `positions`: and where in it they are now;
                 `repeated`: of an id that came more than once
    resume       how a run comes to its checkpoint: --resume, --fresh, --wait, whose it is
    timeline     what happened in its runs, as values, in the bins of `histogram`; `timeline_reader` makes them

May import: ground, system, files, codec.
"""

__all__ = [
    "compaction",
    "frames",
    "history",
    "index",
    "matching",
    "moved_aside",
    "reader",
    "resume",
    "salvage",
    "timeline",
    "timeline_reader",
    "writer",
]

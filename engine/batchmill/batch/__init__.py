"""Joins the rooms: a batch from its plan to its report.

    batch          what others have of it: run, stop, report (start here)
    session        what exists only while it runs: its parts, how they are joined, and what the run came to
    backend        its workers on this machine
    commit         a worker's reply: into the checkpoint first, then to all who count on it; `committed`: read back
    progress       counts, snapshots, samples, the report
    following      who follows a run from Python; `progress_line`: shows it
    exit_status    of a run, from what it came to
    duplicate_ids  ids that came more than once, counted in bounded memory
    signals        the first asks to stop, a later one insists
    own_thread     runs a batch out of reach of what is raised in the caller's thread
    dry_run        what a run would do; `trial`: one item, in this process

May import: ground, system, files, plan, scheduler, pool, worker, output, checkpoint, input, codec, cluster.
"""

__all__ = ["batch", "commit", "dry_run", "following", "own_thread", "signals", "trial"]

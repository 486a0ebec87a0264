"""What runs where, when, and again.

    loop           keeps workers busy and hands on what they answer (start here)
    work_queue     what is next: the input less what is done, and the chunks that came back
    in_flight      which chunk is on which worker: the state table
    chunk_size     how many items the next chunk has
    work_stealing  takes back what a held-up worker has not started
    crashes        the chunks of a dead worker run again, and an item may be charged with its end
    retrier        failed items that are tried again; `retries`: when
    run_limits     what a run with --time-limit does when, and how many failures end it
    ending         what still runs when a run is to end: asked, then killed
    farewell       what workers call when they have nothing more to do
    backend        what a run asks of the place where its workers are
    rendering      which worker makes which part of the output

May import: ground, system, files, pool, worker, output, checkpoint, input, codec.
"""

__all__ = ["backend", "chunk_size", "farewell", "in_flight", "loop", "rendering", "retrier", "run_limits", "work_queue"]

"""All that runs in a worker process.

    bootstrap      makes a process a worker: its group, signals, descriptors, its end with the parent's
    main           sets it up for the items of a run (start here)
    records        opens the records of a chunk and runs them: the guard over each from its first touch to its reply
    calls          the same for a function of many items: `batch_size` (how many), `call_results` (given and returned)
    shared         what all workers are given, in one file that they map
    board          numbers that the parent and its workers share: which record runs, how far to go
    random_streams a stream of random numbers for each worker that was forked; `item_logs`: what functions log
    baseline       what every item begins with, put back after the item that changed it
    sealer         what becomes of a record that no worker may open again
    reply          the rows of a reply while it grows, and the frames it becomes
    function       what FUNCTION means, a text or a callable; `by_value`: closures; `outline`: what a source defines
    captured       the values in a function that make it another one
    sending        items and arguments on their way to workers, by name or by value
    script         the program's own script, as the `__main__` of a worker
    loader         from that to what is called, in a worker
    command        a command for each item: `template` (its words), `shell_script` (items that are never code)
    command_calls  a command for many items: what is whose; `shell_items`: a script for many
    command_runner runs it: `child_process` (its life), `command_group` (all that it starts), `passthrough` (prints)
    code_bundle    the user's own modules, for another machine; `source_digest`: to know them again

May import: ground, system, files, input, codec.
"""

__all__ = [
    "board",
    "bootstrap",
    "call_results",
    "captured",
    "child_process",
    "code_bundle",
    "command",
    "command_runner",
    "function",
    "loader",
    "main",
    "outline",
    "passthrough",
    "random_streams",
    "records",
    "reply",
    "sealer",
    "sending",
    "shared",
    "source_digest",
    "template",
]

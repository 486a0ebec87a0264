"""A batch run from the command line: progress, what workers print (`worker_output`), metrics, the report at its end.

May import: engine, terminal, options.
"""

__all__ = ["batch", "dry_run", "progress", "report"]

"""A batch run from the command line: progress, worker output, metrics, the report at its end.

May import: engine, terminal, options.
"""

__all__ = ["batch", "dry_run", "progress", "report"]

"""A batch run from the command line: progress, what workers print (`worker_output`), metrics, the report at its end;
`log_file`: what was said, with times.

May import: engine, terminal, options.
"""

__all__ = ["batch", "dry_run", "progress", "report"]

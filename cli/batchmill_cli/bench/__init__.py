"""What `batchmill bench` measures and shows: its subject, the table, files and the plot.

May import: engine, terminal, options, running.
"""

__all__ = ["files", "plot", "subject", "table"]

"""The page of `batchmill report`: its parts, plots and style, in one HTML file.

May import: engine, terminal, running.
"""

__all__ = ["page"]

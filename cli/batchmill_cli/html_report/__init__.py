"""The page of `batchmill report`, one HTML file: `figures` are made of `plots`, all of `markup`; `style` is its CSS.

May import: engine, terminal, running.
"""

__all__ = ["page"]

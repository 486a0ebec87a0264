"""What people type and see: standard streams, JSON, quoting for a shell, remedies in errors.

May import: engine.
"""

__all__ = ["json_output", "quoting", "remedies", "stdio"]

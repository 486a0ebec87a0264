"""Options and arguments: declared, grouped, completed, and turned into what the engine takes.

May import: engine, terminal.
"""

__all__ = ["batch", "click_options", "command", "command_lines", "completion", "paths", "reading"]

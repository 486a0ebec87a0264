"""One module for each command; `group` imports the one that is called.

May import: engine, terminal, options, running, html_report, bench.
"""

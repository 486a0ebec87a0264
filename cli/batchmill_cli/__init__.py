"""Owns batchmill's command line. Never computes, reads or writes a checkpoint itself: the engine does.

Start reading at `main` (from an error to an exit status), then `group` (the commands) and `run_command` (one run).
"""

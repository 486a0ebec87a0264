"""Owns what holds for every test: signals do what they do by default. Never a fixture."""

from __future__ import annotations

import signal

# A shell without job control has what it starts in the background ignore these, and so would every program under test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for ignored in (signal.SIGQUIT, signal.SIGHUP):  # the latter by nohup
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)

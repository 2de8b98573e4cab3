"""Signals that ask a run to stop: noted when they come, obeyed when the step is finished."""

from __future__ import annotations

import os
import signal
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Stop:
    """Notes SIGTERM, SIGINT and SIGUSR1 instead of dying of them.

    number  the signal that came first, or 0
    A second Ctrl-C ends the process at once. Under torchrun, which passes a Ctrl-C on that the
    terminal has sent already, it must come a second later to count as one.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[int, object] = {}
        self._torchrun = "TORCHELASTIC_RUN_ID" in os.environ

    def install(self) -> None:
        """Start to listen; only a main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def remove(self) -> None:
        """Give the signals back their former meaning."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: object) -> None:
        if self.number == signal.SIGINT == number and time.monotonic() - self._since > 1:
            os._exit(128 + number)
        if self.number:
            return
        self.number = number
        self._since = time.monotonic()
        again = ""
        if number == signal.SIGINT:
            again = "; Ctrl-C again leaves at once"
            if not self._torchrun:
                # The default action ends the process also inside a long native call.
                signal.signal(number, signal.SIG_DFL)
        text = f"\n{signal.Signals(number).name}: finishing the step, saving{again}\n"
        os.write(2, text.encode())

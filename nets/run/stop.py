"""Signals that ask a run to stop, which it does at the end of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Stop:
    """Records SIGTERM, SIGINT, SIGUSR1 and SIGHUP, which would otherwise end the process.

    number  the signal that came first, or 0
    SIGHUP comes when the terminal closes. It stays ignored where it is, as under nohup.
    A second Ctrl-C ends the process at once, with status 130. Under torchrun it must come at least
    a second later, for torchrun passes on the Ctrl-C that the terminal has already sent.

    A separate thread receives the signals, so that they are recorded while the main thread waits
    or computes. The main thread blocks them, and so do all threads and processes that it starts:
    a terminal's Ctrl-C goes to all of them, and must not end a compiler.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._fd = self._former_fd = -1
        self._torchrun = "TORCHELASTIC_RUN_ID" in os.environ

    def install(self) -> None:
        """Start to listen; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            return
        ear, self._fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._former_fd = signal.set_wakeup_fd(self._fd)  # Python writes each signal's number there
        heard = [
            number
            for number in SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        ]
        self._before = {number: signal.signal(number, lambda *_: None) for number in heard}
        threading.Thread(target=self._listen, args=(ear,), daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def remove(self) -> None:
        """Give the signals back their former meaning."""
        if not self._before:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_fd)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(self._fd)
        self._before = {}

    def _listen(self, ear: int) -> None:
        while came := os.read(ear, 1):
            if came[0] in SIGNALS:
                self._note(came[0])
        os.close(ear)

    def _note(self, number: int) -> None:
        late = not self._torchrun or time.monotonic() - self._since > 1
        if self.number == signal.SIGINT == number and late:
            os._exit(128 + number)
        if self.number:
            return
        self.number = number
        self._since = time.monotonic()
        again = "; Ctrl-C again leaves at once" if number == signal.SIGINT else ""
        text = f"\n{signal.Signals(number).name}: finishing the step, saving{again}\n"
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, text.encode())

    def request(self, number: int) -> None:
        """Ask the run to stop, as the signal `number` would."""
        self.number = self.number or number

"""Ctrl-C and SIGTERM as a request to stop at the next safe place."""

import signal
import threading
from types import FrameType


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped by a signal, after a checkpoint was saved; the message says how to go on."""


class Interruption:
    """Context in which the first SIGINT or SIGTERM is only noted; a second one acts at once.

    Outside the main thread, where Python delivers no signals, it does nothing.

    Attributes:
        signal_name: name of the signal received, or None.
    """

    def __init__(self):
        self.signal_name: str | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

"""SIGTERM and SIGINT as a request: what runs goes on to a place where nothing is lost, and leaves."""

import signal
import sys
import threading
import time
from typing import ClassVar

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_THE_SAME = 3.0  # seconds; a launcher forwards what its processes got already


class RunStopped(SystemExit):
    """A run left because it was asked to; its exit status is 128 and the signal's number, 143 for SIGTERM."""

    def __init__(self, signal_number: int, where: str, then: str = "The same command goes on."):
        super().__init__(128 + signal_number)
        self.message = f"Stopped by {signal.Signals(signal_number).name} {where}. {then}"


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered, and puts the handlers that were there back afterwards.

    A second signal, three seconds later, acts as if this were not here: Ctrl-C again stops at once. Outside the main
    thread, where Python knows no signals, nothing happens.

    Args:
        at_once: where the run stands and what comes of it, for one that keeps nothing of its work until it is done: it
            leaves where it is, as [`leave`] does.

    Attributes:
        received: number of the signal that came, 0 for none.
        entered: the one that is entered now, if any.
    """

    entered: ClassVar["StopSignals | None"] = None

    def __init__(self, at_once: tuple[str, str] | None = None):
        self.at_once = at_once
        self.received, self._when, self._before, self._outer = 0, 0.0, {}, None

    def __enter__(self) -> "StopSignals":
        self.received, self._outer, StopSignals.entered = 0, StopSignals.entered, self
        if threading.current_thread() is threading.main_thread():
            # A handler that was not set from Python cannot be put back.
            before = {number: signal.getsignal(number) for number in _SIGNALS}
            self._before = {number: handler for number, handler in before.items() if handler is not None}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *error) -> None:
        StopSignals.entered = self._outer
        self._restore()

    def _note(self, number: int, frame) -> None:
        if self.received and time.monotonic() - self._when > _THE_SAME:
            self._restore()
            signal.raise_signal(number)
        elif not self.received:
            self.received, self._when = number, time.monotonic()
            if self.at_once is not None:
                leave(number, *self.at_once)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave(signal_number: int, where: str, *then: str, quiet: bool = False) -> None:
    """Ends the run after a signal, with a line that says so unless `quiet`: another process says it."""
    stopped = RunStopped(signal_number, where, *then)
    if not quiet:
        print(stopped.message, file=sys.stderr, flush=True)
    raise stopped


def leave_on_signal(where: str, quiet: bool = False) -> None:
    """The same if a signal came to this process: for work that it does alone, and may leave where it stands."""
    entered = StopSignals.entered
    if entered is not None and entered.received:
        leave(entered.received, where, quiet=quiet)

"""Ctrl-C at a safe moment."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Yield a function that raises KeyboardInterrupt if Ctrl-C was pressed since.

    Raised wherever Python happens to be, a KeyboardInterrupt can come in the middle of a write; in
    a destructor, where Python drops it and the program runs on; or in a call from C++, of which
    TensorFlow makes a SystemError. The block's end looks for it, too. A second Ctrl-C is not
    deferred. A block within another's shares its Ctrl-C. Outside the main thread, and where the
    signal is ignored or handled by others, nothing changes.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
    elif isinstance(handler, _Deferral):
        yield handler.check
    elif handler is not signal.default_int_handler:
        yield lambda: None
    else:
        deferral = _Deferral()
        signal.signal(signal.SIGINT, deferral)
        try:
            yield deferral.check
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        deferral.check()


class _Deferral:
    """Notes the first SIGINT, and raises at the second."""

    def __init__(self) -> None:
        self._is_pressed = False

    def __call__(self, *_: object) -> None:
        self.check()
        self._is_pressed = True

    def check(self) -> None:
        if self._is_pressed:
            raise KeyboardInterrupt

import os
import signal

import pytest

from connprobe.session.interrupts import Interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_counts(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with Interrupts() as interrupts:
        assert interrupts.by is None
        os.kill(os.getpid(), number)
        assert interrupts.by is number
        for other in SIGNALS:
            os.kill(os.getpid(), other)
        assert interrupts.by is number
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_handlers_come_back_after_an_error_and_inside_another() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with Interrupts() as outer:
        inner = Interrupts()
        with pytest.raises(ZeroDivisionError), inner:
            _terminate_and_fail()
        assert (inner.by, outer.by) == (signal.SIGTERM, None)
        os.kill(os.getpid(), signal.SIGHUP)
        assert outer.by is signal.SIGHUP
    assert [signal.getsignal(each) for each in SIGNALS] == before


def _terminate_and_fail() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    raise ZeroDivisionError

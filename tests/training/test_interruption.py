import os
import signal

import pytest

from jaxinv.training.interruption import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_old_handlers_come_back(number):
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with Interruption() as interruption:
        assert interruption.signal_name is None
        os.kill(os.getpid(), number)
        assert interruption.signal_name == number.name
        assert {n: signal.getsignal(n) for n in handlers} == handlers
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_a_second_ctrl_c_acts_at_once():
    """Whatever the shell has set: in the background it may have Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.signal_name == "SIGINT"
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

import errno
import pickle

import pytest

from connprobe import causes
from connprobe.engine.failure import cause_of


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_has_a_cause_and_keeps_its_name(number: int) -> None:
    cause, detail = cause_of(number)
    assert cause in causes.CAUSES
    assert detail.startswith(f"{errno.errorcode[number]}: ")


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (errno.ECONNREFUSED, causes.REFUSED),
        (errno.ECONNRESET, causes.RESET),
        (errno.EPIPE, causes.RESET),
        (errno.ETIMEDOUT, causes.TIMEOUT),
        (errno.EADDRNOTAVAIL, causes.NO_SOURCE_PORT),
        (errno.EMFILE, causes.FD_LIMIT),
        (errno.ENFILE, causes.FD_LIMIT),
        (errno.EHOSTUNREACH, causes.UNREACHABLE),
        (errno.ENETUNREACH, causes.UNREACHABLE),
    ],
)
def test_the_usual_ones(number: int, cause: str) -> None:
    assert cause_of(number)[0] == cause


@pytest.mark.parametrize("number", [0, -1, 9999])
def test_numbers_that_are_no_errno(number: int) -> None:
    cause, detail = cause_of(number)
    assert (cause, detail.split(":")[0]) == (causes.UNREACHABLE, str(number))


def test_details_travel() -> None:
    assert pickle.loads(pickle.dumps(cause_of(errno.EPIPE))) == cause_of(errno.EPIPE)

import pickle

import pytest

from connprobe.errors import ConnprobeError, ProtocolViolation, RunFailed, UsageError


@pytest.mark.parametrize(("kind", "code"), [(ConnprobeError, 1), (UsageError, 2), (RunFailed, 1)])
@pytest.mark.parametrize("fix", [None, "ulimit -n 20000"])
def test_errors_travel_between_processes(kind: type[ConnprobeError], code: int, fix: str | None) -> None:
    error = pickle.loads(pickle.dumps(kind("23 are too many", fix=fix)))
    assert type(error) is kind
    assert (str(error), error.message, error.fix, error.exit_code) == ("23 are too many",) * 2 + (fix, code)


def test_violations_travel_too() -> None:
    error = pickle.loads(pickle.dumps(ProtocolViolation("closed inside a chunked body")))
    assert str(error) == "closed inside a chunked body"
    assert not isinstance(error, ConnprobeError)  # it is counted, it ends no command

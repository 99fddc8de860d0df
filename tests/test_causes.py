from connprobe import causes


def test_each_cause_once_and_under_its_own_index() -> None:
    assert len(set(causes.CAUSES)) == len(causes.CAUSES) == 11
    assert [causes.INDEX[cause] for cause in causes.CAUSES] == list(range(len(causes.CAUSES)))


def test_every_name_is_listed() -> None:
    names = {value for name, value in vars(causes).items() if name.isupper() and isinstance(value, str)}
    assert names == set(causes.CAUSES)
    assert all(cause == cause.lower() and cause.isidentifier() for cause in names)

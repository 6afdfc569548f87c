"""What may never happen: a test that has seen it once is not run again (`tests.suite`)."""


class Happened(AssertionError):
    """Something was seen that may never happen."""


def never(has_happened: object, what: str) -> None:
    """Raise Happened, naming `what`, if something has happened that may not, however seldom."""
    if has_happened:
        raise Happened(what)

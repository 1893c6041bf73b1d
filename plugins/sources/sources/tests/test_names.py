"""Names that are not there, and names that stand twice."""

import pytest

from crosstask.errors import OptionError
from crosstask_sources import check_names

KNOWN = ("parity", "prime", "loop")


def test_names_that_are_known_pass() -> None:
    check_names("digits", "task", ["loop", "parity"], KNOWN)
    check_names("digits", "task", (), KNOWN)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["paritty"], r"^source 'digits': unknown task 'paritty'; did you mean 'parity'\?"),
        (["loop", "x"], "^source 'digits': unknown task 'x'; valid: loop, parity, prime$"),
        (["loop", "prime", "loop"], "^source 'digits': task 'loop' is named twice"),
    ],
)
def test_what_is_wrong_is_said(asked: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        check_names("digits", "task", asked, KNOWN)

"""What the messages of errors are made of."""

from __future__ import annotations

import pytest

from crosstask.errors import OptionError, nearest, printable, told


@pytest.mark.parametrize(
    ("name", "valid", "meant"),
    [
        ("twoo", ["two", "one"], "two"),
        ("tow", ["two", "ten"], "two"),
        ("RGB", ["rgb", "gradnorm"], "rgb"),
        ("PCGard", ["pcgrad", "rgb"], "pcgrad"),
        ("portfolo", ["Portfolio", "portfolio"], "portfolio"),
        ("gpu", ["cuda", "cpu"], "cpu"),
        ("acc", ["accuracy", "loss"], "accuracy"),
        ("bb", ["a", "b"], "b"),
        ("ie", ["ei", "ucb"], "ei"),
        ("procss", ["process", "serial"], "process"),
        ("plain_transfr", ["plain_transfer", "explain"], "plain_transfer"),
        # unrelated: a share of common letters says little of short names
        ("x", ["a", "b"], None),
        ("a", ["b"], None),
        ("ab", ["ba-transfer", "cd"], None),
        ("sgd", ["adam", "adamw"], None),
        ("ewc", ["lwf", "si", "agem"], None),
        ("mlp", ["pml", "conv"], None),
        ("router", ["source", "stage"], None),
        ("name", ["age", "town"], None),
        ("", ["a"], None),
        (3, ["three"], None),
    ],
)
def test_nearest(name: object, valid: list[str], meant: str | None) -> None:
    every = ", ".join(sorted(valid))
    assert nearest(name, valid) == (f"; did you mean {meant!r}? Valid: {every}" if meant else f"; valid: {every}")


def test_nearest_of_none_and_of_many() -> None:
    assert nearest("x", []) == " (there are none)"
    many = [f"name{number:02}" for number in range(20)]
    assert nearest("nothing-alike", many).endswith("name10, name11, …")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


def test_told_never_raises() -> None:
    assert told(ValueError("wrong")) == "ValueError: wrong"
    assert told(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert told(OptionError("wrong")) == "OptionError: wrong"
    assert told(UnprintableError()) == "UnprintableError: (its message cannot be printed)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x9b31m", r"\x9b31m"),  # the same in one character
        ("a\rb\x08\x7f\x00", r"a\rb\x08\x7f\x00"),
        ("abc\u202edef\u2066", r"abc\u202edef\u2066"),  # from right to left: the eye reads another text
        ("half \ud800", r"half \ud800"),
        ("tab\tline\nüß 任务 𝛼 [red]a[/b]", "tab\tline\nüß 任务 𝛼 [red]a[/b]"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_one_line_stays_one() -> None:
    assert printable("a\n\tb", lines=False) == r"a\n\tb"

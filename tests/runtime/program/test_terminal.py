"""A stranger's text is shown, and no terminal obeys it."""

from __future__ import annotations

import logging

import pytest

from fiffdepth_rt.program.terminal import one_line, printable, stderr_handler


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("kitchen\x1b]52;c;aGk=\x07.jpg", r"kitchen\x1b]52;c;aGk=\x07.jpg"),
        ("\x9b2J\x7f\r", r"\x9b2J\x7f\r"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("not text: \udcff", r"not text: \udcff"),
        ("Küche 厨房 🍳", "Küche 厨房 🍳"),
    ],
)
def test_control_characters_are_escaped_and_all_other_text_stays(text: str, escaped: str) -> None:
    assert printable(text) == one_line(text) == escaped
    assert printable(escaped) == escaped


def test_a_name_is_on_one_line_where_it_is_part_of_a_sentence() -> None:
    assert printable("two\nlines\tand a column") == "two\nlines\tand a column"
    assert one_line("a.jpg\nError: b\tc") == r"a.jpg\nError: b\tc"


def test_a_log_shows_a_name_and_obeys_it_not(capsys: pytest.CaptureFixture[str]) -> None:
    handler = stderr_handler("%(levelname)s %(message)s")
    handler.emit(logging.LogRecord("any", logging.WARNING, "", 0, "skipped %s", ("\x1b[2J.jpg",), None))
    assert capsys.readouterr().err == "WARNING skipped \\x1b[2J.jpg\n"

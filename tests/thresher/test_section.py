from __future__ import annotations

from rich.text import Text

from thresher.section import Section, counted, escaped, fenced
from thresher.wording import table_of


def test_a_section_as_markdown() -> None:
    table = table_of("<name", "value")
    table.add_row(Text("a|b"), Text("1"))

    assert Section("Title", ("one_two",), table).markdown == (
        "## Title\n\n- one\\_two\n\n| name | value |\n| --- | ---: |\n| a\\|b | 1 |"
    )


def test_an_empty_section_is_known() -> None:
    table = table_of("x")
    assert Section("Title").is_empty
    assert Section("Title", (), table).is_empty
    assert not Section("Title", ("a",)).is_empty
    assert "|" not in Section("Title", ("a",), table).markdown
    table.add_row(Text("1"))
    assert not Section("Title", (), table).is_empty


def test_the_narrow_table_takes_the_place_of_one_that_does_not_fit() -> None:
    wide, narrow = table_of("a" * 50), table_of("a")
    section = Section("Title", (), wide, narrow)

    assert section.fitting_table(80) is wide
    assert section.fitting_table(20) is narrow
    assert Section("Title", (), wide).fitting_table(20) is wide


def test_words() -> None:
    assert [counted(count, "trial") for count in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert escaped("a\n<b>*") == "a \\<b\\>\\*"
    assert fenced("a ``` b") == "````text\na ``` b\n````"

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_tuning.blocks import cut_into_blocks


@given(st.text(alphabet="ab .\n\t", max_size=400), st.integers(min_value=2, max_value=60))
def test_joined_blocks_are_the_text_and_none_is_too_long(text: str, characters: int) -> None:
    blocks = cut_into_blocks(text, characters)
    assert "".join(blocks) == text
    assert all(0 < len(block) <= characters for block in blocks)


def test_blocks_end_with_paragraphs_before_lines_before_sentences_before_words() -> None:
    assert cut_into_blocks("aaaa\n\nbb\ncc", 8) == ["aaaa\n\n", "bb\ncc"]
    assert cut_into_blocks("aaaa\nbb. cc", 8) == ["aaaa\n", "bb. cc"]
    assert cut_into_blocks("aaaa. bb cc", 8) == ["aaaa. ", "bb cc"]
    assert cut_into_blocks("aaaa bb cc", 8) == ["aaaa bb ", "cc"]
    assert cut_into_blocks("aaaaaaaaaa", 8) == ["aaaaaaaa", "aa"]


def test_a_break_in_the_first_half_makes_no_short_block() -> None:
    assert cut_into_blocks("a\n\nbbbbbbbb bbb", 12) == ["a\n\nbbbbbbbb ", "bbb"]


def test_an_empty_text_has_no_blocks() -> None:
    assert cut_into_blocks("") == []

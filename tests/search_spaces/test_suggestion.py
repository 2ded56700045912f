from __future__ import annotations

from search_spaces.suggestion import suggest


def test_a_near_name_is_suggested() -> None:
    assert suggest("lora.rnak", ["lora.rank", "lora.alpha"]) == "did you mean 'lora.rank'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert suggest("zzz", iter(["float", "int"])) == "use one of 'float', 'int'"
    assert suggest(None, ["float"]) == "use one of 'float'"

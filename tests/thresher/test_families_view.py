from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from search_spaces.families import FamilyError, family_names, load_family
from thresher.families_view import show_families

OWN = """
name: mine
description: "[red]a model[/red] of my own"
model_types: [mine]
like: gpt2
architecture: {fields: {architecture.num_layers: depth}}
lora_targets: {all-linear: ["[b]in[/b]", out]}
lora:
  learning_rate: {batch_exponent: 0}
  space:
    schedule.warmup: {kind: float, low: 0.01, high: 0.5, log: true, prior: {kind: normal, centre: 0.05, deviation: 0.2}}
"""


def shown(name: str | None, width: int = 200) -> str:
    out = StringIO()
    show_families(name, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_all_of_them() -> None:
    text = shown(None)
    for name in family_names():
        assert name in text
        assert load_family(name).description in text
    assert "llama with vocab_size 49152, attention_bias False" in text
    assert "_unmeasured" not in text


@pytest.mark.parametrize("name", family_names())
def test_one_of_them(name: str) -> None:
    family, text = load_family(name), shown(name)
    for model_type in family.model_types:
        assert model_type in text
    for size, field in family.architecture.fields.items():
        assert size in text
        assert field in text
    for rule in family.architecture.rules:
        assert str(rule) in text
    for group, modules in family.lora_targets.items():
        assert group in text
        assert ", ".join(modules) in text
    flowing = " ".join(text.split())
    for tuning in (family.lora, family.full):
        for hyperparameter, default in tuning.defaults.items():
            assert hyperparameter in text
            assert str(default) in text
        for source in tuning.sources.values():
            assert source in flowing
        prior = tuning.learning_rate
        assert f"around {prior.value:g} × (2000 / width)^{prior.exponent:g} × (batch size / 16)^0.5" in flowing
    assert "For full fine-tuning" in text


def test_ones_own_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    text = shown(str(path))
    assert "mine  [red]a model[/red] of my own" in text
    assert "[b]in[/b], out" in text
    assert "around 0.0005 × (2000 / width)^0.43, ± 0.45 decades" in text
    assert "around 0.05, ± 0.2 decades" in text


def test_it_fits_a_narrow_terminal() -> None:
    assert max(map(len, shown("gpt2", width=60).splitlines())) <= 60


def test_an_unknown_one() -> None:
    with pytest.raises(FamilyError, match="got 'gpt'; did you mean 'gpt2'"):
        show_families("gpt", Console(file=StringIO()))
    with pytest.raises(FamilyError, match=r"none.yaml: expected a family file, got No such file"):
        show_families("none.yaml", Console(file=StringIO()))

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces.domains import Float
from search_spaces.families import load_family
from search_spaces.family import (
    ArchitectureFields,
    Family,
    FamilyError,
    LearningRatePrior,
    Tuning,
    text_configs,
    width_of,
)

RATE = "optimizer.learning_rate"
PRIOR = LearningRatePrior(5e-4, 2000, 0.781, deviation=0.35, batch_exponent=0.5)


@pytest.fixture
def llama() -> Family:
    return load_family("llama")


def test_the_learning_rate_follows_the_width() -> None:
    assert PRIOR.at(2000) == 5e-4
    assert PRIOR.at(576) == pytest.approx(5e-4 * (2000 / 576) ** 0.781, rel=0.05)
    assert replace(PRIOR, exponent=0.0).at(17) == 5e-4


def test_defaults_are_complete_and_lie_in_the_space(llama: Family) -> None:
    for tuning in (llama.lora, llama.full):
        for width in (1, 64, 576, 2000, 4096, 10**9):
            params, space = tuning.defaults_at(width), tuning.space_at(width)
            space.validate({name: params[name] for name in space.names})
            assert params.keys() == {RATE, *tuning.defaults}
    rates = {width: llama.lora.defaults_at(width)[RATE] for width in (1, 2000, 4096, 10**9)}
    assert rates == {1: 3e-3, 2000: 5e-4, 4096: 2.9e-4, 10**9: 2e-5}


def test_the_prior_of_the_learning_rate_lies_around_its_default(llama: Family) -> None:
    for width in (1, 576, 4096, 10**9):
        entry = llama.lora.space_at(width).to_dict()[RATE]
        assert entry["prior"] == {
            "kind": "normal",
            "centre": llama.lora.defaults_at(width)[RATE],
            "deviation": 0.35,
            "scaled_by": {"name": "optimizer.batch_size", "reference": 16, "exponent": 0.5},
        }


def test_without_a_batch_size_to_vary_nothing_scales_the_prior(llama: Family) -> None:
    domains = {name: entry for name, entry in llama.lora.domains.items() if name != "optimizer.batch_size"}
    sources = {name: text for name, text in llama.lora.sources.items() if name != "optimizer.batch_size"}
    prior = replace(llama.lora, domains=domains, sources=sources).space_at(2000).to_dict()[RATE]["prior"]
    assert "scaled_by" not in prior


def test_a_space_without_a_learning_rate_has_none(llama: Family) -> None:
    domains = {name: entry for name, entry in llama.lora.domains.items() if name != RATE}
    tuning = replace(llama.lora, domains=domains)
    assert RATE not in tuning.space_at(576).names
    assert tuning.defaults_at(576)[RATE] == 1.3e-3


def test_a_model_is_measured_by_its_configuration(llama: Family) -> None:
    assert llama.defaults_for({"hidden_size": 576})[RATE] == 1.3e-3
    assert llama.defaults_for({"model_type": "x", "text_config": {"hidden_size": 576}})[RATE] == 1.3e-3
    assert llama.defaults_for({})[RATE] == 5e-4
    domain = llama.space_for({"hidden_size": 576}).domains[RATE]
    assert domain == Float(2e-5, 3e-3, log=True)
    assert load_family("gpt2").defaults_for({"n_embd": 768}) == load_family("gpt2").defaults_for({"hidden_size": 768})


@pytest.mark.parametrize(
    ("config", "width"),
    [
        ({"hidden_size": 8}, 8),
        ({"n_embd": 8}, 8),
        ({"d_model": 8}, 8),
        ({"hidden_size": 99, "text_config": {"hidden_size": 8}}, 8),
        ({"hidden_size": 8, "text_config": None}, 8),
        ({"hidden_size": 8, "text_config": {}}, 8),
        ({"hidden_size": "8"}, None),
        ({"hidden_size": True}, None),
        ({"hidden_size": 0}, None),
        ({}, None),
    ],
)
def test_the_width_has_many_names(config: dict[str, Any], width: int | None) -> None:
    assert width_of(config) == width


def test_the_text_comes_first() -> None:
    assert [*text_configs({"a": 1, "text_config": {"b": 2}})] == [{"b": 2}, {"a": 1, "text_config": {"b": 2}}]
    assert [*text_configs({"text_config": "x"})] == [{"text_config": "x"}]


def test_a_family_tells_how_well_it_fits(llama: Family) -> None:
    smollm2 = load_family("smollm2")
    config = {"model_type": "llama", "vocab_size": 49152, "attention_bias": False}
    assert (llama.specificity(config), smollm2.specificity(config)) == (0, 2)
    assert smollm2.specificity({**config, "attention_bias": True}) is None
    assert smollm2.specificity({**config, "attention_bias": 0}) is None  # no flag
    assert smollm2.specificity({"model_type": "llama", "vocab_size": 49152}) is None
    assert smollm2.specificity({"model_type": "smollm3"}) == 0
    assert llama.specificity({}) is None


class TestContradictions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"defaults": {RATE: 1e-3}}, "defaults: expected no optimizer.learning_rate"),
            ({"defaults": {"lora.rank": 33}}, "defaults.lora.rank: expected one of 4, 8, .*, got 33"),
            ({"domains": {RATE: {"kind": "choice", "values": [0.1]}}}, "learning_rate: expected kind: float"),
            ({"domains": {RATE: {"kind": "float", "low": 0.1, "high": 1, "prior": {}}}}, "expected no prior, got one"),
            ({"domains": {"lora.rnk": {"kind": "int", "low": 1, "high": 2}}}, "did you mean 'lora.rank'"),
            ({"domains": {"lora.rank": {"kind": "int", "low": "x", "high": 2}}}, "space.lora.rank.low: expected"),
            ({"sources": {"lora.rnk": "somewhere"}}, "sources: .* got 'lora.rnk'; did you mean 'lora.rank'"),
            ({"sources": ...}, "sources: expected where the prior of .* comes from, got nothing; add a line"),
        ],
    )
    def test_of_a_tuning(self, llama: Family, changes: dict[str, Any], message: str) -> None:
        tuning = llama.lora
        entries = {
            "defaults": {**tuning.defaults, **changes.get("defaults", {})},
            "domains": {**tuning.domains, **changes.get("domains", {})},
            "sources": {} if changes.get("sources") is ... else {**tuning.sources, **changes.get("sources", {})},
        }
        with pytest.raises(FamilyError, match=message):
            Tuning(learning_rate=PRIOR, **entries)

    def test_of_rules_and_conditions(self, llama: Family) -> None:
        decay = {"kind": "float", "low": 0.1, "high": 0.5, "when": {"schedule.kind": ["wsd"]}}
        kind = {"kind": "choice", "values": ["linear", "wsd"]}
        rule = {"kind": "sum", "names": ["schedule.warmup", "schedule.decay"], "high": 0.2}
        sources = {**llama.lora.sources, "schedule.kind": "here", "schedule.decay": "here"}
        domains = {**llama.lora.domains, "schedule.kind": kind, "schedule.decay": decay, "rules": [rule]}
        tuning = replace(llama.lora, domains=domains, sources=sources)  # with linear there is no decay
        tuning.space_at(576).validate(
            {name: tuning.defaults_at(576)[name] for name in tuning.space_at(576).names if name != "schedule.decay"}
        )
        with pytest.raises(FamilyError, match=r"schedule.warmup \+ schedule.decay <= 0.2, got schedule..*; change a"):
            replace(tuning, defaults={**tuning.defaults, "schedule.kind": "wsd"})

    def test_of_an_architecture(self) -> None:
        with pytest.raises(FamilyError, match=r"expected names such as 'architecture.num_layers', got 'num_layers'"):
            ArchitectureFields({"num_layers": "n_layer"})

    def test_of_a_family(self, llama: Family) -> None:
        with pytest.raises(FamilyError, match=r"recognised_by: .* got 'lama'; did you mean 'llama'"):
            replace(llama, recognised_by={"lama": {"vocab_size": 1}})
        defaults = {**llama.lora.defaults, "lora.targets": "atention"}
        with pytest.raises(FamilyError, match=r"lora.defaults.lora.targets: .*did you mean 'attention'"):
            replace(llama, lora=replace(llama.lora, defaults=defaults))

    def test_all_linear_layers_need_no_list(self, llama: Family) -> None:
        assert replace(llama, lora_targets={}).lora_targets == {}

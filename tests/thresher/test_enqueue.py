from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from controller.events import AttemptStarted, Enqueued, JobCreated, TrialCreated
from controller.requests import Enqueue, pending_requests
from llm_tuning.recipe import RECIPE_DEFAULTS, RecipeError
from search_spaces.space import Space
from tests.thresher.journal import Journal
from thresher.enqueue import EnqueueError, check_params, complete_params, enqueue, read_assignments
from thresher.yaml_file import YamlError

SPACE = Space.from_dict(
    {
        "optimizer.learning_rate": {"kind": "float", "low": 1e-5, "high": 1e-2, "log": True},
        "lora.rank": {"kind": "choice", "values": [4, 8, 32]},
        "lora.dropout": {"kind": "choice", "values": [0.0, 0.1]},
        "optimizer.batch_size": {"kind": "int", "low": 1, "high": 64},
        "schedule.kind": {"kind": "choice", "values": ["linear", "wsd"]},
        "schedule.warmup": {"kind": "float", "low": 0.0, "high": 0.5},
        "schedule.decay": {"kind": "float", "low": 0.1, "high": 0.9, "when": {"schedule.kind": ["wsd"]}},
        "rules": [{"kind": "sum", "names": ["schedule.warmup", "schedule.decay"], "high": 1.0}],
    }
)
DEFAULTS = {**RECIPE_DEFAULTS, "lora.rank": 32, "lora.dropout": 0.1, "schedule.warmup": 0.05}


class TestCompleteParams:
    def test_what_is_not_given_keeps_its_default(self) -> None:
        params = complete_params(SPACE, DEFAULTS, {"lora.rank": 8})
        assert params["lora.rank"] == 8
        assert params["schedule.warmup"] == 0.05
        assert "schedule.decay" not in params, "it exists with wsd only"
        check_params(SPACE, DEFAULTS, params)

    def test_a_value_may_bring_others_along(self) -> None:
        params = complete_params(SPACE, DEFAULTS, {"schedule.kind": "wsd"})
        assert params["schedule.decay"] == DEFAULTS["schedule.decay"]

    def test_a_rule_that_the_filled_in_values_break(self) -> None:
        given = {"schedule.kind": "wsd", "schedule.decay": 0.9}
        assert complete_params(SPACE, DEFAULTS, given)["schedule.warmup"] == 0.05
        with pytest.raises(EnqueueError, match=r"schedule\.warmup=0\.3, .* \(filled in: .*schedule\.warmup 0\.3\)$"):
            complete_params(SPACE, {**DEFAULTS, "schedule.warmup": 0.3}, given)

    @pytest.mark.parametrize(
        ("name", "given", "value"),
        [
            ("optimizer.learning_rate", "1e-3", 1e-3),  # as PyYAML reads it
            ("lora.dropout", 0, 0.0),
            ("lora.rank", 8.0, 8),
            ("optimizer.batch_size", "1e1", 10),
            ("schedule.warmup", 0, 0.0),
        ],
    )
    def test_numbers_are_read_by_their_domain(self, name: str, given: object, value: object) -> None:
        found = complete_params(SPACE, DEFAULTS, {name: given})[name]
        assert (found, type(found)) == (value, type(value))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"lora.rank": 9}, r"lora\.rank: expected .*, got 9; choose such a value"),
            ({"lora.rank": True}, r"lora\.rank: expected .*, got True"),
            ({"lora.rank": None}, r"lora\.rank: expected .*, got None"),
            ({"lora.rank": [8]}, r"lora\.rank: expected .*, got \[8\]"),
            ({"optimizer.learning_rate": "fast"}, r"expected .*, got 'fast'"),
            ({"lora.rnk": 8}, r"expected the names of the space, got 'lora\.rnk'; did you mean 'lora\.rank'\?"),
            (
                {"lora.alpha": 8},
                r"lora\.alpha: expected a name that this study varies \(.*\), got one .* fixed at 32\.0",
            ),
            ({"schedule.decay": 0.5}, r"schedule\.decay: expected no value, since it exists only where"),
            ({"schedule.kind": "wsd", "schedule.decay": 0.8, "schedule.warmup": 0.4}, r"expected '.*<= 1.*', got"),
        ],
    )
    def test_what_the_space_does_not_hold(self, given: dict[str, object], message: str) -> None:
        with pytest.raises(EnqueueError, match=message):
            complete_params(SPACE, DEFAULTS, given)

    def test_what_no_training_can_have(self) -> None:
        space = Space.from_dict({"schedule.warmup": {"kind": "float", "low": 0.0, "high": 1.0}})
        defaults = {**DEFAULTS, "schedule.kind": "wsd", "schedule.decay": 0.5}
        with pytest.raises(RecipeError):
            check_params(space, defaults, {"schedule.warmup": 0.9})


class TestReadAssignments:
    def test_texts_come_after_the_file(self, tmp_path: Path) -> None:
        file = tmp_path / "params.yaml"
        file.write_text("lora.rank: 8\nschedule.kind: wsd\n")
        assert read_assignments(["lora.rank=16", "lora.dropout = 0.1"], file) == {
            "lora.rank": 16,
            "schedule.kind": "wsd",
            "lora.dropout": 0.1,
        }

    @pytest.mark.parametrize(
        ("texts", "message"),
        [
            ([], "expected at least one NAME=VALUE, got none"),
            (["lora.rank"], "expected NAME=VALUE such as lora.rank=16, got 'lora.rank'"),
            (["=3"], "expected NAME=VALUE"),
            (["lora.rank={"], r"lora\.rank: expected a value, got '\{'"),
        ],
    )
    def test_what_is_no_assignment(self, texts: list[str], message: str) -> None:
        with pytest.raises(EnqueueError, match=message):
            read_assignments(texts)

    def test_a_file_of_something_else(self, tmp_path: Path) -> None:
        file = tmp_path / "params.yaml"
        with pytest.raises(YamlError):
            read_assignments([], file)
        file.write_text("- 3")
        with pytest.raises(EnqueueError, match=r"expected names with values, such as lora\.rank: 16, got \[3\]"):
            read_assignments([], file)


class TestEnqueue:
    @pytest.fixture
    def study(self, journal: Journal) -> Journal:
        """The default is at work, four trials are left to start."""
        default = {"optimizer.learning_rate": 3e-3, "lora.rank": 4}
        job = JobCreated(0, 0, 0, 8)
        journal.store.append([TrialCreated(0, default, 0, enqueued=True), job, AttemptStarted(0, 1)])
        journal.trials = journal.jobs = 1
        return journal

    def test_of_a_study_that_runs(self, study: Journal) -> None:
        asked = enqueue(study.record, {"lora.rank": 8})
        params = {"optimizer.learning_rate": 3e-3, "lora.rank": 8}
        assert asked.params == params
        (filed,) = pending_requests(study.directory)
        assert (filed.name, filed.request) == (asked.name, Enqueue(params))
        (sentence,) = asked.sentences
        assert re.fullmatch(r"it is tried as the next trial that starts \(process \d+ on .+ runs the study\)", sentence)
        assert enqueue(study.record, {"lora.rank": 2}).sentences[0].startswith("it is tried after 1 other that wait")

    def test_of_a_study_that_nobody_runs(self, study: Journal) -> None:
        study.store.close()
        asked = enqueue(study.record, {"lora.rank": 4})
        assert asked.sentences == (
            "trial 0 has exactly these values: they will be tried once more, with another seed",
            "nobody runs this study: it is tried as the next trial that starts when the study goes on: thresher resume "
            f"{study.directory}",
        )

    def test_when_all_trials_are_spoken_for(self, study: Journal) -> None:
        study.start(3.0)
        study.store.append([Enqueued({"optimizer.learning_rate": 3e-3, "lora.rank": 2}, "one")])
        for _ in range(2):
            enqueue(study.record, {"lora.rank": 8})
        with pytest.raises(EnqueueError) as caught:
            enqueue(study.record, {"lora.rank": 8})
        assert str(caught.value) == (
            f"expected a study with trials left to start, got {study.directory}: 2 of 5 are started, 3 are spoken for; "
            "stop it and run it again with --set search.trials=6"
        )

    def test_after_the_search(self, study: Journal) -> None:
        study.train(study.start(3.0), 16, 2.0)
        study.start(2.0, repeat_of=1, budget=16)
        with pytest.raises(EnqueueError, match="are started, and its finalists were repeated or tested; start"):
            enqueue(study.record, {"lora.rank": 8})

    def test_nothing_is_filed_for_what_is_wrong(self, study: Journal) -> None:
        with pytest.raises(EnqueueError):
            enqueue(study.record, {"lora.rank": 3})
        assert pending_requests(study.directory) == []

    def test_a_study_without_a_space_on_record(self, study: Journal) -> None:
        manifest: dict[str, Any] = study.store.manifest()
        plan = {name: value for name, value in manifest["plan"].items() if name != "space"}
        study.store.write_manifest({"plan": plan})
        with pytest.raises(EnqueueError, match="expected a study of fine-tuning with its space on record"):
            enqueue(study.record, {"lora.rank": 8})

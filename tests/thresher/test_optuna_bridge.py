"""Against the real Optuna."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.events import Event
from controller.limits import Limits
from controller.samplers.random import RandomSampler
from controller.samplers.warm_start import WarmStartSampler
from controller.trial import FailureKind, Objective
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int
from search_spaces.space import Space
from tests.thresher.written_study import FULL, LOSS, RUNGS, WrittenStudy, finished_study
from thresher import Study
from thresher.optuna_bridge import (
    ExchangeError,
    Imported,
    from_optuna,
    read_renames,
    shown_storage,
    to_optuna,
)
from thresher.record import StudyRecord

optuna = pytest.importorskip("optuna")

STATES = optuna.trial.TrialState
WRITTEN_SPACE = Space(
    {
        "optimizer.learning_rate": Float(1e-5, 1e-2, log=True),
        "lora.rank": Int(1, 64, log=True),
        "lora.dropout": Choice((0.0, 0.1)),
        "optimizer.batch_size": Choice((8, 16)),
        "lora.targets": Choice(("mlp", "all-linear")),
    }
)
SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True),
        "layers": Int(1, 6),
        "kind": Choice(("adam", "sgd")),
        "momentum": Float(0.0, 0.9),
        "odd": Choice((1, True, "one")),
    },
    (OneOf("momentum", "kind", ("sgd",)),),
)


def record_of(study: WrittenStudy, directory: Path, space: Space = WRITTEN_SPACE) -> StudyRecord:
    """The study as it would be read from a directory."""
    manifest = {"plan": {"space": space.to_dict()}}
    entries: list[tuple[int, float, Event]] = study.entries
    defaults = {"optimizer.weight_decay": 0.1, "lora.rank": 32}
    return StudyRecord(directory, study.history, RUNGS, defaults, None, 20, Limits(), None, manifest, entries)


def run(directory: Path) -> Study:
    """A study of a function over SPACE, some of whose trials fail."""

    def objective(params: dict[str, Any], budget: int) -> float:
        if params["layers"] == 6:
            raise MemoryError
        return float(abs(math.log10(params["rate"]) + 2) + params["layers"] / 9 + 1 / budget)

    study = Study(SPACE, objective, budget=9, trials=20, strategy="asha", directory=directory)
    return study.run(progress=False, fail_fast=False)


STORAGES: dict[str, Callable[[Path], Any]] = {
    "sqlite": lambda directory: f"sqlite:///{directory}/optuna.db",
    "file": lambda directory: directory / "optuna.sqlite3",
    "journal": lambda directory: str(directory / "optuna.log"),
    "memory": lambda directory: optuna.storages.InMemoryStorage(),
}


class TestExport:
    @pytest.fixture
    def exported(self, tmp_path: Path) -> optuna.Study:
        storage = optuna.storages.InMemoryStorage()
        assert to_optuna(record_of(finished_study(), tmp_path / "tiny"), storage) == "tiny"
        return optuna.load_study(study_name="tiny", storage=storage)

    def test_states(self, exported: optuna.Study) -> None:
        assert [trial.number for trial in exported.trials] == list(range(8))
        states = [trial.state for trial in exported.trials]
        assert states == [STATES.COMPLETE] * 3 + [STATES.PRUNED] * 3 + [STATES.FAIL] * 2
        assert exported.directions == [optuna.study.StudyDirection.MINIMIZE]
        assert exported.metric_names == ["validation_loss"]
        assert exported.best_trial.number == 2
        assert exported.best_value == 2.05

    def test_values_at_the_rungs(self, exported: optuna.Study) -> None:
        curves = [trial.intermediate_values for trial in exported.trials]
        assert curves[0] == {100: 2.5, 300: 2.35, 900: 2.30}
        assert curves[3] == {100: 2.2, 300: 2.41}
        assert curves[6] == {}
        assert curves[7] == {100: 2.0}

    def test_parameters(self, exported: optuna.Study) -> None:
        trial = exported.trials[1]
        assert trial.params["optimizer.learning_rate"] == 1.23e-3
        assert trial.params["lora.targets"] == "mlp"
        distributions = optuna.distributions
        assert trial.distributions == {
            "optimizer.learning_rate": distributions.FloatDistribution(1e-5, 1e-2, log=True),
            "lora.rank": distributions.IntDistribution(1, 64, log=True),
            "lora.dropout": distributions.CategoricalDistribution((0.0, 0.1)),
            "optimizer.batch_size": distributions.CategoricalDistribution((8, 16)),
            "lora.targets": distributions.CategoricalDistribution(("mlp", "all-linear")),
        }

    def test_what_optuna_has_no_word_for(self, exported: optuna.Study) -> None:
        attributes = exported.trials[2].user_attrs
        assert attributes["labels.origin"] == "mutation"
        assert attributes["labels.parent"] == 1
        assert (attributes["trial"], attributes["budget"], attributes["seed"]) == (2, FULL, 2)
        assert attributes["seconds"] == 180.0
        assert [repeat["validation_loss"] for repeat in attributes["repeats"]] == [2.09, 2.10]
        assert "test.test_loss" in attributes
        failed = exported.trials[6].user_attrs
        assert failed["failure"] == "oom"
        assert failed["message"].startswith("CUDA out of memory")
        mark = exported.user_attrs["thresher"]
        assert mark["budgets"] == list(RUNGS)
        assert mark["fixed"] == {"optimizer.weight_decay": 0.1}

    def test_times(self, exported: optuna.Study) -> None:
        start = datetime.fromtimestamp(WrittenStudy.START)
        seconds = [
            ((trial.datetime_start - start).total_seconds(), (trial.datetime_complete - start).total_seconds())
            for trial in exported.trials[:2]
        ]
        assert seconds == [(0, 9), (10, 19)]

    def test_open_trials_are_running(self, tmp_path: Path) -> None:
        study = WrittenStudy()
        study.job(study.start(), 0, 100)
        paused = study.start()
        study.train(paused, 2.5)
        study.job(paused, 100, 300)
        storage = optuna.storages.InMemoryStorage()
        to_optuna(record_of(study, tmp_path), storage, name="open")
        trials = optuna.load_study(study_name="open", storage=storage).trials
        assert [trial.state for trial in trials] == [STATES.RUNNING] * 2
        assert [trial.datetime_complete for trial in trials] == [None] * 2
        assert trials[1].intermediate_values == {100: 2.5}

    def test_several_objectives(self, tmp_path: Path) -> None:
        study = WrittenStudy(LOSS, Objective("exact_match", "maximize"))
        for loss, match in ((2.0, 0.5), (1.0, 0.25), (3.0, 0.25)):
            study.found({"validation_loss": loss, "exact_match": match})
        study.found(FailureKind.DIVERGED)
        study.found({"validation_loss": math.nan, "exact_match": 0.0})
        storage = optuna.storages.InMemoryStorage()
        to_optuna(record_of(study, tmp_path), storage, name="two")
        theirs = optuna.load_study(study_name="two", storage=storage)
        assert sorted(trial.number for trial in theirs.best_trials) == [0, 1]
        assert theirs.trials[0].values == [2.0, 0.5]
        assert [trial.state for trial in theirs.trials[3:]] == [STATES.FAIL] * 2

    @pytest.mark.parametrize("kind", ["sqlite", "journal", "memory"])
    def test_a_second_export_refuses_or_replaces(self, kind: str, tmp_path: Path) -> None:
        storage = STORAGES[kind](tmp_path)
        record = record_of(finished_study(), tmp_path / "tiny")
        to_optuna(record, storage)
        with pytest.raises(ExchangeError, match="got one that holds an earlier export under this name; ask to replace"):
            to_optuna(record, storage)
        assert to_optuna(record, storage, name="other") == "other"
        record.history.trials[2].reports.clear()
        assert to_optuna(record, storage, replace=True) == "tiny"
        assert len(from_optuna(storage, WRITTEN_SPACE, name="tiny").trials) == 5
        assert len(from_optuna(storage, WRITTEN_SPACE, name="other").trials) == 6

    def test_what_somebody_else_made_is_never_replaced(self, tmp_path: Path) -> None:
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(study_name="tiny", storage=storage)
        with pytest.raises(ExchangeError, match="holds a study of somebody else under this name; give another name"):
            to_optuna(record_of(finished_study(), tmp_path / "tiny"), storage, replace=True)

    def test_an_export_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        narrow = Space({**WRITTEN_SPACE.domains, "lora.rank": Int(1, 48)})
        storage = optuna.storages.InMemoryStorage()
        with pytest.raises(ValueError, match=r"lora\.rank"):
            to_optuna(record_of(finished_study(), tmp_path, narrow), storage)
        assert optuna.get_all_study_names(storage) == []

    def test_optuna_goes_on_with_it(self, exported: optuna.Study) -> None:
        trial = exported.ask(exported.trials[0].distributions)
        exported.tell(trial, 1.5)
        assert exported.best_value == 1.5
        assert len(exported.trials_dataframe()) == 9

    def test_it_is_quiet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = optuna.logging.get_verbosity()
        to_optuna(record_of(finished_study(), tmp_path), optuna.storages.InMemoryStorage())
        assert optuna.logging.get_verbosity() == before
        assert capsys.readouterr() == ("", "")


class TestRoundTrip:
    @pytest.mark.parametrize("kind", ["file", "memory"])
    def test_what_was_measured_comes_back(self, kind: str, tmp_path: Path) -> None:
        storage = STORAGES[kind](tmp_path)
        with run(tmp_path / "run") as study:
            assert study.to_optuna(storage) == "run"
            history = study.history
        found = from_optuna(storage, SPACE)
        measured = [trial for trial in history.trials if trial.reports and trial.failure is None]
        failed = [trial for trial in history.trials if trial.failure is not None]
        assert failed
        assert [dict(trial.params) for trial in found.trials] == [dict(trial.params) for trial in measured]
        assert [[type(v) for v in trial.params.values()] for trial in found.trials] == [
            [type(v) for v in trial.params.values()] for trial in measured
        ]
        assert [trial.loss for trial in found.trials] == [
            history.loss(trial.trial_id, trial.budget) for trial in measured
        ]
        assert [trial.budget for trial in found.trials] == [trial.budget for trial in measured]
        assert found.skipped == {"without a result": len(failed)}
        assert (found.ignored, found.filled) == ((), ())
        assert found.best(1)[0] == history.best().params  # type: ignore[union-attr]


def theirs(direction: str = "minimize", name: str = "theirs") -> Any:
    """A storage with a study of Optuna: lr and momentum, and a parameter that SPACE does not have."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name=name, storage=storage, direction=direction)
    study.enqueue_trial({"lr": 0.01, "kind": "sgd", "momentum": 0.5})
    study.enqueue_trial({"lr": 0.02, "kind": "adam", "momentum": 0.5})
    study.enqueue_trial({"lr": 3.0, "kind": "adam", "momentum": 0.5})

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("lr", 1e-4, 4.0, log=True)
        trial.suggest_categorical("kind", ["adam", "sgd"])
        trial.suggest_float("momentum", 0.0, 0.99)
        trial.suggest_int("seed", 1, 3)
        return float(trial.number)

    study.optimize(objective, n_trials=3)
    return storage


class TestImport:
    def test_of_a_study_of_optuna(self) -> None:
        found = from_optuna(theirs(), SPACE, rename={"lr": "rate"})
        assert [dict(trial.params) for trial in found.trials] == [
            {"rate": 0.01, "layers": 4, "kind": "sgd", "momentum": 0.5, "odd": True},
            {"rate": 0.02, "layers": 4, "kind": "adam", "odd": True},
        ]
        assert [(trial.loss, trial.budget) for trial in found.trials] == [(0.0, 1), (1.0, 1)]
        assert found.skipped == {"outside the space": 1}
        assert found.ignored == ("seed",)
        assert found.filled == ("layers", "odd")
        assert found.sentences == [
            "2 trials of theirs tell about this space",
            "1 trial left out: outside the space",
            "not in this space, and ignored: seed",
            "not in that study, and filled in: layers, odd",
        ]

    def test_defaults_fill_what_is_missing(self) -> None:
        defaults = {"layers": 2, "odd": "one", "rate": 0.5, "elsewhere": 3}
        found = from_optuna(theirs(), SPACE, rename={"lr": "rate"}, defaults=defaults)
        assert [(trial.params["layers"], trial.params["odd"]) for trial in found.trials] == [(2, "one"), (2, "one")]
        assert found.trials[0].params["rate"] == 0.01

    def test_the_best(self) -> None:
        maximized = from_optuna(theirs("maximize"), SPACE, rename={"lr": "rate"})
        assert [trial.loss for trial in maximized.trials] == [0.0, -1.0]
        assert [params["rate"] for params in maximized.best(5)] == [0.02, 0.01]
        assert len(maximized.best(1)) == 1

    def test_it_warms_another_study_up(self) -> None:
        found = from_optuna(theirs(), SPACE, rename={"lr": "rate"})
        sampler = WarmStartSampler(SPACE, RandomSampler(SPACE), [found.trials])
        proposal = sampler.propose(WrittenStudy().history, np.random.default_rng(0))
        assert proposal.params == found.best(1)[0]

    def test_the_highest_budget_comes_first(self) -> None:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name="steps")
        for rate, values in ((0.1, {1: 9.0, 5: 3.0}), (0.2, {1: 1.0}), (0.3, {})):
            study.add_trial(
                optuna.trial.create_trial(
                    params={"rate": rate},
                    distributions={"rate": optuna.distributions.FloatDistribution(0.001, 1.0)},
                    intermediate_values=values,
                    state=STATES.COMPLETE if len(values) != 1 else STATES.PRUNED,
                    value=3.5 if len(values) != 1 else None,
                )
            )
        study.ask()
        found = from_optuna(storage, SPACE)
        assert [(trial.loss, trial.budget) for trial in found.trials] == [(3.5, 5), (1.0, 1), (3.5, 5)]
        assert [params["rate"] for params in found.best(3)] == [0.1, 0.3, 0.2]
        assert found.skipped == {"without a result": 1}

    def test_nothing_in_common(self) -> None:
        space = Space({"x": Float(0.0, 1.0)})
        with pytest.raises(ExchangeError, match=r"expected parameters of the space \(x\) in 'theirs', got lr, kind, "):
            from_optuna(theirs(), space)
        with pytest.raises(ExchangeError, match=r"expected a name of the space \(x\), got 'y'"):
            from_optuna(theirs(), space, rename={"lr": "y"})
        with pytest.raises(ExchangeError, match="expected a trial of use in empty, got none"):
            Imported("empty", (), {}, (), ()).best(1)

    def test_which_study(self) -> None:
        storage = theirs()
        optuna.create_study(study_name="second", storage=storage)
        with pytest.raises(ExchangeError, match=r"expected one study, or its name in the storage, got .*'second'"):
            from_optuna(storage, SPACE)
        with pytest.raises(ExchangeError, match="expected a study 'third' in the storage, got "):
            from_optuna(storage, SPACE, name="third")
        assert from_optuna(storage, SPACE, name="second").trials == ()


class TestStorages:
    @pytest.mark.parametrize("storage", ["none.db", "none.log", "sqlite:///none.db"])
    def test_reading_makes_no_file(self, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ExchangeError, match=r"expected a storage of Optuna in none\.\w+, got no such file"):
            from_optuna(storage, SPACE)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("storage", ["nosuch://host/db", "sqlite:////nowhere/at/all.db", "/nowhere/at/all.log"])
    def test_what_cannot_be_used(self, storage: str, tmp_path: Path) -> None:
        with pytest.raises(ExchangeError, match=f"expected a storage of Optuna that can be used, got {storage} "):
            to_optuna(record_of(finished_study(), tmp_path), storage)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").write_text("no database at all, but long enough to look like something to SQLite" * 20)
        with pytest.raises(ExchangeError, match="file is not a database"):
            from_optuna(tmp_path / "x.db", SPACE)

    def test_passwords_are_not_shown(self) -> None:
        assert shown_storage("mysql://me:secret@host/db") == "mysql://...@host/db"
        assert shown_storage("optuna.db") == "optuna.db"
        assert shown_storage(optuna.storages.InMemoryStorage()) == "InMemoryStorage"

    def test_without_optuna(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(ExchangeError, match=r'expected Optuna .* pip install "thresher\[optuna\]"'):
            from_optuna("x.db", SPACE)
        with pytest.raises(ExchangeError, match=r'expected Optuna .* pip install "thresher\[optuna\]"'):
            to_optuna(record_of(finished_study(), tmp_path), "x.db")


def test_renames_are_read() -> None:
    assert read_renames(["lr=rate", "a = b.c"]) == {"lr": "rate", "a": "b.c"}
    for text in ("lr", "lr=", "=rate"):
        with pytest.raises(ExchangeError, match=f"expected THEIRS=OURS such as .* got '{text}'"):
            read_renames([text])

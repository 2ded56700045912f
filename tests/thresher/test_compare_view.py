from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from rich.console import Console

from controller.store import Store
from tests.thresher.journal import BUDGETS, DEFAULTS, Journal
from thresher.compare_view import compare_studies, comparison_data, comparison_view, labels_of
from thresher.config import parse_config
from thresher.manifest import describe_study, settle_manifest
from thresher.record import RecordError

RNG = np.random.default_rng(0)
LOSSES = RNG.normal(2.0, 0.5, 200)


class MakeStudy(Protocol):
    def __call__(self, name: str, **sections: dict[str, Any]) -> Journal: ...


@pytest.fixture
def make(config_data: dict[str, Any], tmp_path: Path) -> Iterator[MakeStudy]:
    """Makes studies whose settings differ in the given sections, with data files of their own."""
    with ExitStack() as stack:

        def make(name: str, **sections: dict[str, Any]) -> Journal:
            data = copy.deepcopy(config_data)
            data["output"]["directory"] = str(tmp_path / name)
            for section, changes in sections.items():
                data[section] = {**data.get(section, {}), **changes}
            config = parse_config(data)
            store = stack.enter_context(Store.open(config.output.directory))
            plan = {"defaults": DEFAULTS, "budgets": list(BUDGETS)}
            settle_manifest(store, describe_study(config, plan, {"model": "abc"}), "data")
            (config.output.directory / "data").mkdir()
            for split in ("validation", "test"):
                (config.output.directory / "data" / f"{split}.safetensors").write_bytes(split.encode())
            return Journal(store)

        yield make


def finished(study: Journal, loss: float, test: list[float], metric: str = "test_loss") -> Journal:
    """Trial 1 wins and is tested."""
    study.train(study.start(loss + 1), 16, loss + 0.5)
    study.train(study.start(loss + 1, rank=8), 16, loss)
    study.test(1, test, metric)
    return study


def shown(*studies: Journal) -> str:
    console = Console(file=StringIO(), width=120, color_system=None)
    console.print(comparison_view(compare_studies([study.record for study in studies])))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_better_winner(make: MakeStudy) -> None:
    one = finished(make("one"), 2.0, list(LOSSES))
    two = finished(make("two", search={"seed": 5}), 2.2, list(LOSSES + 0.1))
    text = shown(one, two)
    table = [line.split() for line in text.splitlines()]
    assert ["search.seed", "1", "5"] in table
    assert ["value", "2.0000", "2.2000"] in table
    assert ["lora.rank", "8", "8"] in table
    assert "output.directory" not in text
    assert "validation: measured on the same examples" in text
    assert "test set, one against two: one is better; loss -0.1000 [-0.1000, -0.1000], 95 %" in text
    data = json.loads(json.dumps(comparison_data(compare_studies([two.record, one.record]))))
    assert data["tests"][0]["verdict"] == "worse"
    assert data["tests"][0]["difference"] == pytest.approx(0.1)
    assert data["settings"] == {"search.seed": [5, 1]}
    assert data["studies"][0]["winner"]["mean_of"] == [1]


def test_a_tie(make: MakeStudy) -> None:
    one = finished(make("one"), 2.0, list(LOSSES))
    two = finished(make("two"), 2.0, list(LOSSES + RNG.normal(0.0, 0.5, len(LOSSES))))
    assert "settings that differ\nnone but the output" in shown(one, two)
    assert "one against two: a tie, the difference may be 0" in shown(one, two)


def test_three_studies(make: MakeStudy) -> None:
    studies = [finished(make(name), 2.0, list(LOSSES)) for name in ("one", "two", "three")]
    assert [line.split(":")[0] for line in shown(*studies).splitlines()[-2:]] == [
        "test set, one against two",
        "test set, one against three",
    ]


def test_other_test_data(make: MakeStudy) -> None:
    one, two = (finished(make(name), 2.0, list(LOSSES)) for name in ("one", "two"))
    (two.directory / "data" / "test.safetensors").write_bytes(b"other")
    assert "not comparable, because their test sets are not the same examples" in shown(one, two)
    (two.directory / "data" / "validation.safetensors").unlink()
    assert "validation: the studies were not measured on the same examples" in shown(one, two)


def test_results_by_example_are_missing(make: MakeStudy) -> None:
    one = finished(make("one"), 2.0, list(LOSSES))
    two = finished(make("two"), 2.0, [2.0])
    assert "; results by example are missing, so there is no interval" in shown(one, two)


def test_nothing_was_tested_or_measured(make: MakeStudy) -> None:
    one = finished(make("one"), 2.0, list(LOSSES))
    two = make("two")
    text = shown(one, two).replace("\n", " ")
    assert "not comparable, because the winner of " in text
    assert "expected a trial that was measured in" in text


def test_other_objectives(make: MakeStudy) -> None:
    one = finished(make("one"), 2.0, list(LOSSES))
    two = make("two", objective={"metric": "token_accuracy"})
    two.train(two.start(0.5, metric="token_accuracy"), 16, 0.6, "token_accuracy")
    two.test(0, list(LOSSES), "test_token_accuracy")
    text = shown(one, two)
    assert "the studies optimise different metrics (token_accuracy, validation_loss)" in text
    assert "test set, one against two: not comparable, because the studies optimise different metrics" in text
    assert ["value", "2.0000", "0.6000"] in [line.split() for line in text.splitlines()]


def test_one_study_is_too_few(make: MakeStudy) -> None:
    with pytest.raises(RecordError, match="expected at least two studies, got 1"):
        compare_studies([make("one").record])


def test_labels() -> None:
    assert labels_of([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert labels_of([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert labels_of([Path("/x"), Path("/x")]) == ["/x", "/x"]

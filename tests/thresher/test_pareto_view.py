from __future__ import annotations

import json

import pytest

from controller.events import SessionStarted
from controller.trial import Objective
from tests.thresher.written_study import LOSS, WrittenStudy, rendered
from thresher.pareto_view import TradeOffs, pareto_data, pareto_view, read_reference, trade_offs
from thresher.record import RecordError

MATCH = Objective("exact_match", "maximize")
RESULTS = ((2.3, 0.5), (2.1, 0.4), (2.2, 0.45), (2.4, 0.45))


def study(*objectives: Objective, results: tuple[tuple[float, float], ...] = RESULTS) -> WrittenStudy:
    """Trials that go to the full budget in three stretches, one that does not, and a repeat of the best."""
    written = WrittenStudy(*objectives)
    for loss, match in results:
        written.train(written.start(), *[{"validation_loss": loss, "exact_match": match}] * 3)
    written.train(written.start(), {"validation_loss": 1.0, "exact_match": 1.0})
    if results:
        written.repeat(1, {"validation_loss": 1.0, "exact_match": 1.0})
    return written


def found(written: WrittenStudy, reference: dict[str, float] | None = None) -> TradeOffs:
    return trade_offs(written.history, written.entries, reference)


def test_the_front_and_what_it_covers() -> None:
    front = found(study(LOSS, MATCH))
    assert [trial.trial_id for trial in front.front] == [1, 2, 0]
    assert front.reference == {"validation_loss": 2.4, "exact_match": 0.4}
    assert front.hypervolume == pytest.approx(0.1 * 0.1 + 0.1 * 0.05)
    assert front.contributions == pytest.approx((0.0, 0.1 * 0.05, 0.1 * 0.05))


def test_a_reference_of_ones_own() -> None:
    front = found(study(LOSS, MATCH), {"exact_match": 0.0, "validation_loss": 3.1})
    assert front.hypervolume == pytest.approx(1.0 * 0.4 + 0.9 * 0.05 + 0.8 * 0.05)
    assert front.contributions[0] == pytest.approx(0.1 * 0.4)
    assert list(front.reference) == ["validation_loss", "exact_match"]


def test_how_it_grew() -> None:
    written = study(LOSS, MATCH)
    front = found(written, {"validation_loss": 3.0, "exact_match": 0.0})
    assert [step.trial for step in front.growth] == [0, 1, 2, 3]
    assert [step.results for step in front.growth] == [1, 2, 3, 4]
    assert [step.hypervolume for step in front.growth] == pytest.approx([0.35, 0.35 + 0.08, 0.43 + 0.005, 0.435])
    assert front.growth[-1].hypervolume == pytest.approx(front.hypervolume)
    # Every entry takes a second: a trial, then three times a job, its attempt, and its report.
    assert [step.seconds for step in front.growth] == [9, 19, 29, 39]
    assert [step.examples for step in front.growth] == [904, 1808, 2712, 3616]


def test_pauses_do_not_count() -> None:
    written = study(LOSS, MATCH)
    number, moment, _ = written.entries[10]
    late = [(number, moment + 1000, event) for number, moment, event in written.entries[10:]]
    entries = [*written.entries[:10], (number, moment + 999, SessionStarted()), *late]
    steps = trade_offs(written.history, entries, None).growth
    assert [step.seconds for step in steps] == [9, 19, 29, 39]


def test_with_one_objective_the_best_is_the_front() -> None:
    front = found(study(LOSS))
    assert [trial.trial_id for trial in front.front] == [1]
    assert front.hypervolume == pytest.approx(0.3)
    text = rendered(pareto_view(front), 160)
    assert "1 trial of 4 at the full budget of 900: no other is better in validation_loss" in text


def test_before_any_trial_is_at_the_full_budget() -> None:
    front = found(study(LOSS, MATCH, results=()))
    assert (front.front, front.growth, front.hypervolume, dict(front.reference)) == ((), (), 0.0, {})
    assert rendered(pareto_view(front), 200).startswith("0 trials of 0 at the full budget of 900: ")


def test_for_people() -> None:
    lines = rendered(pareto_view(found(study(LOSS, MATCH))), 160).splitlines()
    rows = [line.split() for line in lines]
    assert ["1", "2.1000", "0.4000", "0", "5e-4", "32", "0", "16", "all-linear"] in rows
    assert lines[-3] == (
        "3 trials of 4 at the full budget of 900: no other is at least as good in validation_loss and exact_match and "
        "better in one"
    )
    assert lines[-2] == "hypervolume 0.015 to the reference point validation_loss 2.4, exact_match 0.4"
    assert lines[-1].startswith("as it grew  ")


def test_as_data() -> None:
    data = json.loads(json.dumps(pareto_data(found(study(LOSS, MATCH)))))
    assert [row["trial"] for row in data["front"]] == [1, 2, 0]
    assert data["front"][0]["metrics"] == {"validation_loss": 2.1, "exact_match": 0.4}
    assert data["front"][0]["params"]["lora.rank"] == 32
    assert data["objectives"][1] == {"metric": "exact_match", "direction": "maximize"}
    assert [step["results"] for step in data["growth"]] == [1, 2, 3, 4]
    assert data["hypervolume"] == data["growth"][-1]["hypervolume"]


@pytest.mark.parametrize("reference", [{"validation_loss": 3.0}, {"validation_loss": 3.0, "accuracy": 0.1}])
def test_a_reference_names_every_objective(reference: dict[str, float]) -> None:
    with pytest.raises(RecordError, match="expected a reference value for each of validation_loss, exact_match, got"):
        found(study(LOSS, MATCH), reference)


def test_references_are_read() -> None:
    assert read_reference([]) is None
    assert read_reference(["loss=3.5", "accuracy = 1e-2"]) == {"loss": 3.5, "accuracy": 0.01}
    for text in ("loss", "loss=much"):
        with pytest.raises(RecordError, match=f"expected METRIC=VALUE such as .* got '{text}'"):
            read_reference([text])

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from controller.events import Event, Failed, JobCreated, Reported, TrialCreated
from controller.history import History
from controller.importance import ImportanceError, decompose, importances
from controller.leaf_boxes import SpaceColumns
from controller.trial import Continue, Failure, FailureKind, Objective, Report
from search_spaces.conditions import OneOf
from search_spaces.domains import Choice, Float, Int, ParamValue
from search_spaces.space import Space

ABC = Space({name: Float(0.0, 1.0) for name in "abc"})


def drawn(space: Space, count: int, seed: int = 0) -> list[dict[str, ParamValue]]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def shares(
    space: Space, function: Callable[[Mapping[str, Any]], float], count: int = 1500, **options: Any
) -> dict[str, float]:
    """The shares of a function that is known at `count` points, by names such as "a" and "ab"."""
    points = drawn(space, count)
    _, parts = decompose(space, points, np.array([function(point) for point in points]), **options)
    return {"".join(part.names): part.share for part in parts}


class TestKnownFunctions:
    def test_a_sum_of_terms_has_no_interactions(self) -> None:
        found = shares(ABC, lambda p: 3 * p["a"] + 2 * p["b"] ** 2 + p["c"])
        terms = {"a": 9 / 12, "b": 4 * (1 / 5 - 1 / 9), "c": 1 / 12}
        whole = sum(terms.values())
        for name, variance in terms.items():
            assert found[name] == pytest.approx(variance / whole, abs=0.03)
        assert found["ab"] + found["ac"] + found["bc"] < 0.03

    def test_a_product_is_an_interaction(self) -> None:
        found = shares(ABC, lambda p: (p["a"] - 0.5) * (p["b"] - 0.5))
        assert found["ab"] > 0.9
        assert max(found[name] for name in ("a", "b", "c")) < 0.03

    def test_ishigami(self) -> None:
        """Ishigami and Homma 1990 with a = 7 and b = 0.1."""
        space = Space({name: Float(-math.pi, math.pi) for name in "abc"})
        found = shares(
            space, lambda p: math.sin(p["a"]) * (1 + 0.1 * p["c"] ** 4) + 7 * math.sin(p["b"]) ** 2, 4000, trees=16
        )
        known = {"a": 0.3139, "b": 0.4424, "c": 0.0, "ab": 0.0, "ac": 0.2437, "bc": 0.0}
        for name, share in known.items():
            assert found[name] == pytest.approx(share, abs=0.08), name  # the forest flattens the waves of b a little

    def test_scales_and_words_weigh_all_values_alike(self) -> None:
        space = Space({"a": Int(1, 64, log=True), "b": Choice(("x", "y", "z", "w")), "c": Float(0.0, 1.0)})
        effect = {"x": 0.0, "y": 3.0, "z": 0.0, "w": 0.0}
        found = shares(space, lambda p: 0.6 * math.log2(p["a"]) + effect[p["b"]])
        low, high = math.log2(0.5), math.log2(64.5)
        assert found["a"] / found["b"] == pytest.approx(0.36 * (high - low) ** 2 / 12 / (9 * 3 / 16), rel=0.15)
        assert found["c"] < 0.01

    def test_what_exists_under_a_condition_counts_where_it_exists(self) -> None:
        space = Space({"a": Choice(("x", "y")), "b": Float(0.0, 1.0), "c": Float(0.0, 1.0)}, (OneOf("b", "a", ("y",)),))
        found = shares(space, lambda p: p["b"] if p["a"] == "y" else 2.0)
        # Mean over a: 2 or 1/2, so 9/16; over b where it exists: half of b - 1/2, so 1/4 of 1/12; beyond both as much.
        whole = 9 / 16 + 1 / 48 + 1 / 48
        assert found["a"] == pytest.approx(9 / 16 / whole, abs=0.01)
        assert found["b"] == pytest.approx(1 / 48 / whole, abs=0.01)
        assert found["ab"] == pytest.approx(1 / 48 / whole, abs=0.01)
        assert found["c"] == pytest.approx(0.0, abs=0.005)


def test_two_parameters_explain_everything_and_three_at_most_that() -> None:
    square = Space({"a": Float(0.0, 1.0), "b": Int(1, 9)})
    assert sum(shares(square, lambda p: p["a"] ** p["b"], 40).values()) == pytest.approx(1)
    rest = sum(shares(ABC, lambda p: p["a"] * p["b"] * p["c"], 60).values())
    assert 0.5 < rest < 1


def test_it_equals_an_integration_of_the_forest_over_a_grid() -> None:
    space = Space(
        {"a": Choice(("x", "y", "z")), "b": Int(1, 6, log=True), "c": Choice((0.0, 0.1, 0.5)), "d": Int(1, 4)},
        (OneOf("c", "a", ("x", "z")),),
    )
    rng = np.random.default_rng(3)
    points, losses = drawn(space, 80), rng.standard_normal(80)
    _, parts = decompose(space, points, losses, trees=20, seed=5)
    columns = SpaceColumns(space)
    forest = RandomForestRegressor(20, random_state=5).fit(columns.rows(points), losses)
    values: list[Sequence[ParamValue]] = [("x", "y", "z"), range(1, 7), (0.0, 0.1, 0.5), range(1, 5)]
    log_widths = np.diff(np.log(np.arange(0.5, 7)))
    weights = np.einsum("b,acd->abcd", log_widths / log_widths.sum(), np.full((3, 3, 4), 1 / 36))
    grid = [dict(zip("abcd", point, strict=True)) for point in itertools.product(*values)]
    rows = columns.rows([{n: v for n, v in p.items() if n != "c" or p["a"] != "y"} for p in grid])
    expected: dict[tuple[str, ...], list[float]] = {part.names: [] for part in parts}
    for tree in forest.estimators_:
        f = tree.predict(rows).reshape(weights.shape)
        f = f - (weights * f).sum()
        for names, found in expected.items():
            found.append(explained(f, weights, ["abcd".index(name) for name in names]) / (weights * f**2).sum())
    for part in parts:
        assert part.share == pytest.approx(np.mean(expected[part.names]), abs=1e-12)
        assert part.std == pytest.approx(np.std(expected[part.names]), abs=1e-12)


def explained(f: np.ndarray, weights: np.ndarray, axes: list[int]) -> float:
    """The variance of what one or two axes explain, by the definition; `f` has mean 0 on a product of weights."""

    def marginal(kept: list[int]) -> np.ndarray:
        others = tuple(axis for axis in range(f.ndim) if axis not in kept)
        mass = weights.sum(axis=others, keepdims=True)
        return (weights * f).sum(axis=others, keepdims=True) / mass

    effect = marginal(axes) - sum(marginal([axis]) for axis in axes if len(axes) > 1)
    return float((weights * effect**2).sum())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::optuna.exceptions.ExperimentalWarning")
def test_on_real_numbers_it_equals_optuna() -> None:
    import optuna

    points = drawn(ABC, 60)
    losses = np.array([3 * point["a"] + point["b"] * point["c"] for point in points])  # type: ignore[operator]
    theirs = optuna.create_study()
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in "abc"}
    for point, loss in zip(points, losses, strict=True):
        theirs.add_trial(optuna.trial.create_trial(params=point, distributions=distributions, value=loss))
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=64, max_depth=64, seed=3)
    expected = evaluator.evaluate(theirs)
    _, parts = decompose(ABC, points, losses, pairs=False, seed=3)
    ours = {part.names[0]: part.share for part in parts}
    whole = sum(expected.values()) / sum(ours.values())  # some versions of Optuna make them add up to 1
    assert {name: share * whole for name, share in ours.items()} == pytest.approx(dict(expected))


def test_many_trials_make_trees_of_bounded_size() -> None:
    found = shares(ABC, lambda p: p["a"] + 0.1 * p["b"], 3000, trees=16)
    assert found["a"] == pytest.approx(1 / 1.01, abs=0.01)


def study(
    space: Space,
    function: Callable[[Mapping[str, Any]], float | None],
    count: int,
    promoted: int = 0,
    *objectives: Objective,
) -> History:
    """A history with rungs at 1 and 3: all trials at the first, some at the second. None is a failure."""
    events: list[Event] = []
    jobs = itertools.count()
    for number, params in enumerate(drawn(space, count)):
        events.append(TrialCreated(number, params, number))
        for start, end in ((0, 1), (1, 3))[: 1 + (number < promoted)]:
            job, value = next(jobs), function(params)
            events.append(JobCreated(job, number, start, end, Continue(number, start) if start else None))
            if value is None:
                events.append(Failed(Failure(job, FailureKind.OOM, "no room")))
                break
            metrics = {"loss": value + end, "seconds": float(params["b"])}  # type: ignore[arg-type]
            events.append(Reported(Report(job, end, metrics, 1.0)))
    return History.replay(events, seed=0, objectives=objectives or (Objective("loss"),), horizon=3)


class TestOfAHistory:
    def test_the_highest_rung_with_enough_results_is_taken(self) -> None:
        history = study(ABC, lambda p: p["a"], 30, 12)
        found = importances(history, ABC)
        assert (found.metric, found.budget, found.trials, found.failed) == ("loss", 3, 12, 0)
        assert found.parts[0].names == ("a",)
        assert found.explained > 0.5
        assert importances(history, ABC, min_trials=13).budget == 1
        assert importances(history, ABC, budget=1).trials == 30

    def test_the_largest_comes_first(self) -> None:
        parts = importances(study(ABC, lambda p: 2 * p["b"] + p["a"], 40), ABC).parts
        assert [part.names for part in parts[:2]] == [("b",), ("a",)]
        assert [part.share for part in parts] == sorted((part.share for part in parts), reverse=True)
        assert len(parts) == 6
        assert len(importances(study(ABC, lambda p: p["a"], 40), ABC, interactions=False).parts) == 3

    def test_the_same_seed_gives_the_same(self) -> None:
        history = study(ABC, lambda p: p["a"] * p["b"], 20)
        first, second, other = (importances(history, ABC, seed=seed) for seed in (1, 1, 2))
        assert first == second
        assert first != other

    def test_failures_are_left_out_or_the_worst(self) -> None:
        history = study(ABC, lambda p: None if p["a"] > 0.7 else p["b"], 60)
        left_out = importances(history, ABC)
        assert left_out.parts[0].names == ("b",)
        assert left_out.failed == 0
        worst = importances(history, ABC, failures="worst")
        assert worst.trials == 60
        assert worst.failed == 60 - left_out.trials > 5
        assert worst.parts[0].names == ("a",)

    def test_any_metric_will_do(self) -> None:
        history = study(ABC, lambda p: p["a"], 20)
        found = importances(history, ABC, metric="seconds")
        assert (found.metric, found.parts[0].names) == ("seconds", ("b",))

    def test_only_the_better_ones_may_count(self) -> None:
        def with_a_cliff(params: Mapping[str, Any]) -> float:
            return 100.0 + params["c"] if params["a"] > 0.8 else float(params["b"])

        history = study(ABC, with_a_cliff, 80)
        assert importances(history, ABC).parts[0].names == ("a",)
        assert importances(history, ABC, best_share=0.5).parts[0].names == ("b",)
        largest = study(ABC, lambda p: -with_a_cliff(p), 80, 0, Objective("loss", "maximize"))
        assert importances(largest, ABC, best_share=0.5).parts[0].names == ("b",)

    def test_what_does_not_vary_is_left_out(self) -> None:
        space = Space({**ABC.domains, "fixed": Choice(("x",)), "still": Float(1.0, 1.0)})
        found = importances(study(space, lambda p: p["a"], 20), space)
        assert {name for part in found.parts for name in part.names} == set("abc")

    def test_trials_outside_the_space_are_left_out(self) -> None:
        narrow = Space({**ABC.domains, "a": Float(0.0, 0.5)})
        assert 5 < importances(study(ABC, lambda p: p["a"], 40), narrow).trials < 35

    def test_results_that_are_all_alike_matter_to_nobody(self) -> None:
        parts = importances(study(ABC, lambda p: 0.1, 20), ABC).parts
        assert {part.share for part in parts} == {0.0}

    def test_no_number_is_no_result(self) -> None:
        history = study(ABC, lambda p: math.nan if p["a"] > 0.5 else p["b"], 40)
        assert importances(history, ABC).trials < 30


class TestRefusals:
    def test_too_few(self) -> None:
        history = study(ABC, lambda p: p["a"], 7, 2)
        with pytest.raises(
            ImportanceError, match=r"expected at least 10 trials .*'loss' at one budget, got 7 at 1, 2 at 3; let the"
        ):
            importances(history, ABC)
        assert importances(history, ABC, min_trials=7).trials == 7
        with pytest.raises(ImportanceError, match="at 3, got 2 at 3"):
            importances(history, ABC, budget=3)
        with pytest.raises(ImportanceError, match="at 9, got 0 at 9"):
            importances(history, ABC, budget=9)
        with pytest.raises(ImportanceError, match="got none"):
            importances(study(ABC, lambda p: p["a"], 0), ABC)

    def test_no_such_metric(self) -> None:
        with pytest.raises(ImportanceError, match="'accuracy' at one budget, got 0 at 1"):
            importances(study(ABC, lambda p: p["a"], 20), ABC, metric="accuracy")

    def test_a_space_of_one_point(self) -> None:
        space = Space({"b": Choice((1.0,))})
        with pytest.raises(ImportanceError, match="expected a space with a parameter that varies, got b"):
            importances(study(space, lambda p: 1.0, 20), space)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"failures": "drop"}, "expected failures 'omit' or 'worst'"),
            ({"best_share": 0.0}, "expected a best_share above 0"),
            ({"min_trials": 3}, "expected min_trials of at least 4"),
            ({"trees": 1}, "expected at least 16 trees"),
        ],
    )
    def test_options_that_make_no_sense(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            importances(study(ABC, lambda p: p["a"], 20), ABC, **options)

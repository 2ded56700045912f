"""The trade-offs of a study between its objectives: the front, the volume it covers, and how that grew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from controller.events import Event, Reported, SessionStarted
from controller.history import History
from controller.pareto import front_of, hypervolume, pareto_front
from controller.trial import Trial
from thresher.leaderboard import param_cells
from thresher.record import RecordError
from thresher.section import counted
from thresher.sparkline import sparkline
from thresher.wording import short_names, table_of

CURVE = 40  # characters


@dataclass(frozen=True, slots=True)
class Growth:
    """The hypervolume after one more trial has reached the full budget.

    Attributes:
        results: how many trials have.
        seconds: on the clock, in all sessions of the study together.
        examples: what the search had been trained on.
    """

    trial: int
    results: int
    seconds: float
    examples: int
    hypervolume: float


@dataclass(frozen=True, slots=True)
class TradeOffs:
    """The trials at the full budget that no other dominates.

    Attributes:
        front: best first by the first objective.
        contributions: of each of them, how much smaller the hypervolume would be without it.
        reference: the metric at the reference point, by name; empty while no trial has reached the full budget.
        hypervolume: of the front.
        growth: one entry a trial at the full budget, in the order of their results.
    """

    history: History
    front: tuple[Trial, ...]
    contributions: tuple[float, ...]
    reference: Mapping[str, float]
    hypervolume: float
    growth: tuple[Growth, ...]

    @property
    def metrics(self) -> list[str]:
        """The objectives by name."""
        return [objective.metric for objective in self.history.objectives]


def trade_offs(
    history: History, entries: Sequence[tuple[int, float, Event]], reference: Mapping[str, float] | None = None
) -> TradeOffs:
    """The front of a study, with the hypervolume between it and a reference point.

    Repeats of finalists are left out. With one objective the front is the best trial, and all trials as good.

    Args:
        entries: the journal that the history adds up to.
        reference: a value for each objective by the name of its metric. By default the worst of each among the trials
            at the full budget; give one to compare studies.

    Raises RecordError if the reference does not name each objective.
    """
    budget = history.horizon
    losses = {trial_id: history.losses(trial_id, budget) for trial_id in history.rung(budget).arrivals}
    corner = _corner(history, list(losses.values()), reference)
    front = front_of(history)
    points = [losses[trial.trial_id] for trial in front]
    volume = hypervolume(points, corner) if points else 0.0
    without = (hypervolume(points[:place] + points[place + 1 :], corner) for place in range(len(points)))
    return TradeOffs(
        history=history,
        front=tuple(front),
        contributions=tuple(volume - rest for rest in without),
        reference={one.metric: one.loss({one.metric: at}) for one, at in zip(history.objectives, corner, strict=False)},
        hypervolume=volume,
        growth=tuple(_growth(history, entries, corner)),
    )


def read_reference(texts: Sequence[str]) -> dict[str, float] | None:
    """`METRIC=VALUE` texts as a reference point; None for none. Raises RecordError."""
    found = {}
    for text in texts:
        metric, _, value = text.partition("=")
        try:
            found[metric.strip()] = float(value)
        except ValueError as error:
            raise RecordError(f"expected METRIC=VALUE such as validation_loss=3.0, got {text!r}; correct it") from error
    return found or None


def pareto_view(found: TradeOffs) -> RenderableType:
    """The trade-offs for a person."""
    names = list(dict.fromkeys(name for trial in found.front for name in trial.params))
    short = short_names(names)
    table = table_of("trial", *found.metrics, "adds", *short)
    for trial, adds in zip(found.front, found.contributions, strict=True):
        measured = trial.reports[found.history.horizon].metrics
        values = [f"{measured[metric]:z.4f}" for metric in found.metrics]
        table.add_row(*map(Text, (str(trial.trial_id), *values, f"{adds:.4g}", *param_cells(trial.params, names))))
    return Group(*([table] if found.front else []), *map(Text, _sentences(found)))


def pareto_data(found: TradeOffs) -> dict[str, Any]:
    """The trade-offs as plain data."""
    horizon = found.history.horizon
    return {
        "objectives": [{"metric": one.metric, "direction": one.direction} for one in found.history.objectives],
        "budget": horizon,
        "reference": dict(found.reference),
        "hypervolume": found.hypervolume,
        "front": [
            {
                "trial": trial.trial_id,
                "metrics": {metric: trial.reports[horizon].metrics[metric] for metric in found.metrics},
                "adds": adds,
                "params": dict(trial.params),
            }
            for trial, adds in zip(found.front, found.contributions, strict=True)
        ],
        "growth": [
            {
                "trial": step.trial,
                "results": step.results,
                "seconds": step.seconds,
                "examples": step.examples,
                "hypervolume": step.hypervolume,
            }
            for step in found.growth
        ],
    }


def _sentences(found: TradeOffs) -> list[str]:
    results = len(found.growth)
    beaten = f"at least as good in {' and '.join(found.metrics)} and better in one"
    lines = [
        f"{counted(len(found.front), 'trial')} of {results} at the full budget of {found.history.horizon}: no other is "
        + (beaten if len(found.metrics) > 1 else f"better in {found.metrics[0]}")
    ]
    if found.front:
        at = ", ".join(f"{metric} {value:.4g}" for metric, value in found.reference.items())
        curve = sparkline([step.hypervolume for step in found.growth], width=CURVE, low=0.0)
        lines += [f"hypervolume {found.hypervolume:.4g} to the reference point {at}", f"as it grew  {curve}"]
    return lines


def _corner(
    history: History, losses: Sequence[Sequence[float]], reference: Mapping[str, float] | None
) -> tuple[float, ...]:
    """The reference point as losses; empty if none was given and there is nothing to take it from."""
    metrics = [objective.metric for objective in history.objectives]
    if reference is None:
        return tuple(map(max, zip(*losses, strict=True)))
    if sorted(reference) != sorted(metrics):
        raise RecordError(
            f"expected a reference value for each of {', '.join(metrics)}, got {', '.join(reference) or 'none'}; give "
            "the worst that is acceptable"
        )
    return tuple(objective.loss(reference) for objective in history.objectives)


def _growth(history: History, entries: Sequence[tuple[int, float, Event]], corner: Sequence[float]) -> list[Growth]:
    """The hypervolume with every trial at the full budget, in the order of the journal."""
    so_far = History(seed=history.seed, objectives=history.objectives, horizon=history.horizon)
    seconds, before = 0.0, None
    front: list[tuple[float, ...]] = []
    steps: list[Growth] = []
    volume = 0.0
    for _, moment, event in entries:
        if before is not None and not isinstance(event, SessionStarted):  # as active_seconds counts
            seconds += max(0.0, moment - before)
        before = moment
        so_far.apply(event)
        arrivals = so_far.rung(history.horizon).arrivals
        if not isinstance(event, Reported) or len(arrivals) == len(steps):
            continue
        front.append(so_far.losses(arrivals[-1], history.horizon))
        kept = pareto_front(front)
        if len(front) - 1 in kept:
            front = [front[place] for place in kept]
            volume = hypervolume(front, corner)
        else:
            front.pop()
        steps.append(Growth(arrivals[-1], len(arrivals), seconds, so_far.examples, volume))
    return steps

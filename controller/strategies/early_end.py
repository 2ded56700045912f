"""The end of a study when another trial is not expected to bring more than the noise of its measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from controller.history import History
from controller.samplers.gaussian_process import GaussianProcessSampler
from controller.strategy import Decision, Done, Start, Strategy, Wait


@final
@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """Starts no more trials once their expected improvement is below a share of the noise.

    Makarova et al. 2022 (arXiv:2104.08166) end a study when a bound of its regret is below the statistical error of
    what it measures. Here expected improvement stands for the bound, which is what one more trial would bring: it is
    the improvement of the most promising configuration on the best one, both as the surrogate sees them (see
    GaussianProcessSampler.outlook). The noise is the deviation of repeated measurements of the same configuration
    where there are some, else the surrogate's.

    Only what the strategy would start by its own choice is held back. Enqueued configurations are started, paused
    trials go on, and while jobs are running it waits, since their results may raise the expectation again. It never
    ends before a trial has reached the full budget, nor while no configuration satisfies the constraints, nor with
    several objectives.

    Args:
        strategy: what is ended.
        surrogate: judges, with the options and the space of the sampler that proposes, if that is one of its kind.
        min_trials: it does not end before that many trials were measured at the rung that the surrogate models.
        noise_share: the share of the noise that the expected improvement must reach.
    """

    strategy: Strategy
    surrogate: GaussianProcessSampler
    min_trials: int = 20
    noise_share: float = 0.5

    def __post_init__(self) -> None:
        if self.min_trials < 2 or self.noise_share <= 0.0:
            raise ValueError(
                f"expected min_trials >= 2 and noise_share > 0, got {self.min_trials} and {self.noise_share}; "
                "the defaults are 20 and 0.5"
            )

    def next(self, history: History) -> Decision:
        """See Strategy."""
        decision = self.strategy.next(history)
        if not isinstance(decision, Start) or decision.enqueued or decision.repeat_of is not None:
            return decision
        reason = self.reason(history)
        if reason is None:
            return decision
        return Wait() if history.searching else Done(reason)

    def retain(self, history: History) -> set[int]:
        """See Strategy."""
        return self.strategy.retain(history)

    def reason(self, history: History) -> str | None:
        """Why no more trials are worth their cost; None while they may be."""
        if len(history.rung(history.horizon).arrivals) == 0:
            return None
        outlook = self.surrogate.outlook(history)
        if outlook is None or len(history.rung(outlook.budget).arrivals) < self.min_trials:
            return None
        if outlook.improvement >= self.noise_share * outlook.noise:
            return None
        source = f"from {outlook.repeats} repeated measurements" if outlook.repeats else "as the surrogate sees it"
        return (
            f"the expected improvement of {history.objectives[0].metric} by another trial, {outlook.improvement:.2g} "
            f"at budget {outlook.budget}, is below {self.noise_share:g} of the noise, {outlook.noise:.2g} ({source})"
        )

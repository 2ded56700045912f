"""What the end of a study comes to, in sentences. Numbers are in the direction of the study's metric."""

from __future__ import annotations

from controller.finalists import DEFAULT_TRIAL
from controller.intervals import Interval
from thresher.comparison import Comparison, Contender, Difference, label_of

_LOSSES_IN_NATS = ("validation_loss", "test_loss")
_NO_SIGN = "no sign that the choice flattered it"


def conclusions(comparison: Comparison) -> list[str]:
    """What the comparison comes to."""
    winner = comparison.winner
    if winner is None:
        return ["There is no winner."]
    sentences = [_winner_sentence(comparison, winner)]
    if winner.trial_id == DEFAULT_TRIAL:
        sentences.append("The search found nothing better than the default configuration.")
    if comparison.ties and winner.repeated:
        tied = " and ".join(map(the, comparison.ties))
        sentences.append(f"On validation it is tied with {tied}: the difference may be chance of the seeds.")
    sentences += [_difference_sentence(comparison, difference) for difference in comparison.differences]
    return [*sentences, selection_sentence(comparison)]


def selection_sentence(comparison: Comparison) -> str:
    """How much of the lead at selection was selection, or why that is not known."""
    selection = comparison.selection
    if selection.trial_id is None or selection.vanished is None:
        who = "" if selection.trial_id is None else f"{the(selection.trial_id)}: "
        return f"How much of the result is selection is unknown: {who}{selection.unknown}."
    unit = " nats" if comparison.metric in _LOSSES_IN_NATS else ""
    whose, lead, vanished = _capital(the(selection.trial_id)), selection.lead_found, selection.vanished
    interval = _bracketed(selection.interval)
    by_seeds = f"95 % interval{interval} over the seeds" if interval else "no interval: the runs do not tell of seeds"
    if lead is None or selection.lead_repeated is None:
        found, repeated = comparison.value(selection.found), comparison.value(selection.repeated)
        luck = f"{vanished:.4f}{unit} of its result vanished" if vanished > 0 else _NO_SIGN
        return (
            f"{whose} had {found:.4f} on the run it was chosen by and {repeated:.4f} in its repeats: {luck} "
            f"({by_seeds}). Of its lead nothing is known: {selection.unknown}."
        )
    if selection.share is None:
        return (
            f"{whose} did not lead the default at selection ({lead:+.4f}{unit}, {selection.lead_repeated:+.4f} in the "
            "repeats): there was no lead that selection could have flattered."
        )
    led = (
        f"{whose} led the default by {lead:.4f}{unit} at selection and by {selection.lead_repeated:.4f} in the repeats"
    )
    if vanished <= 0:
        return f"{led}: {_NO_SIGN} ({by_seeds})."
    if vanished >= lead:
        return (
            f"{led}: all of the lead at selection, {vanished:.4f}{unit} in all, vanished in the repeats ({by_seeds})."
        )
    return (
        f"{led}: {vanished:.4f} of {lead:.4f}{unit} ({selection.share:.0%}) of the lead at selection vanished in the "
        f"repeats ({by_seeds})."
    )


def estimates_sentences(comparison: Comparison) -> tuple[str, ...]:
    """How the estimates on validation are to be read."""
    if not comparison.contenders:
        return ()
    counts = [contender.counted for contender in comparison.contenders if contender.repeated]
    if not counts:
        return (
            "No repeats: each estimate is the run that the finalist was chosen by, which is optimistic. "
            "Set finalists.repeats to 2 or more.",
        )
    sentences = ["Estimates are means over the repeats alone; the run that a finalist was chosen by does not count."]
    if any(contender.interval for contender in comparison.contenders):
        sentences[0] += " Intervals are Student's t over the seeds, with the deviation pooled over all repeats."
        if min(counts) < 3:
            repeats = f"{min(counts)} repeat{'s'[: min(counts) != 1]}"
            sentences.append(f"With {repeats} the intervals are wide; more repeats narrow them.")
    if len(counts) > 1:
        sentences.append(
            f"The winner is the best of {len(counts)} such means, so its own is still a little optimistic; its test "
            "result is not."
        )
    return tuple(sentences)


def the(trial_id: int | None) -> str:
    """A contender or the base model (None) in a sentence."""
    return label_of(trial_id) if trial_id else f"the {label_of(trial_id)}"


def estimate(comparison: Comparison, loss: float, interval: Interval | None, form: str = "z.4f") -> str:
    """A loss, or a difference of two, with its interval, as values of the metric."""
    return f"{comparison.value(loss):{form}}{_bracketed(comparison.values(interval), form)}"


def _winner_sentence(comparison: Comparison, winner: Contender) -> str:
    mean = f"{comparison.metric} {estimate(comparison, winner.mean, winner.interval)}"
    if not winner.repeated:
        return f"The winner is {the(winner.trial_id)}: {mean} in 1 run, the one that it was chosen by (optimistic)."
    runs = f"{winner.counted} repeat{'s'[: winner.counted != 1]}"
    what = f"{mean}, the mean of {runs}" if winner.counted > 1 else f"{mean} in its repeat"
    return f"The winner is {the(winner.trial_id)}: {what}."


def _difference_sentence(comparison: Comparison, difference: Difference) -> str:
    them, verdict = the(difference.trial_id), difference.verdict
    by = estimate(comparison, difference.value, difference.interval, "+z.4f")
    if verdict is None:
        return f"On the test set it differs from {them} by {by}, with no interval to judge that by."
    words = f"tied with {them}: the difference {by} may be 0" if verdict == "tie" else f"{verdict} than {them}: {by}"
    return f"On the test set it is {words}."


def _bracketed(interval: Interval | None, form: str = "z.4f") -> str:
    return "" if interval is None else f" [{interval.low:{form}}, {interval.high:{form}}]"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

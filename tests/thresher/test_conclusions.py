from __future__ import annotations

import re

import numpy as np

from controller.finalists import Finalists
from controller.trial import FailureKind, Objective
from tests.thresher.written_study import DIFFICULTY, WrittenStudy, finished_study
from thresher.comparison import compare
from thresher.conclusions import conclusions, estimates_sentences


def told(study: WrittenStudy, finalists: Finalists) -> list[str]:
    return conclusions(compare(study.history, finalists))


def test_winner_ties_verdicts_and_selection_are_named() -> None:
    sentences = told(finished_study(), Finalists(2, 2))

    first = re.fullmatch(
        r"The winner is trial 2: validation_loss 2\.0950 \[(.*), (.*)\], the mean of 2 repeats\.", sentences[0]
    )
    assert first is not None
    assert float(first[1]) < 2.095 < float(first[2])
    assert sentences[1] == "On validation it is tied with trial 1: the difference may be chance of the seeds."
    assert sentences[2].startswith("On the test set it is better than the default: -0.2")
    assert sentences[3].startswith("On the test set it is better than the base model: -1.0")
    assert sentences[4].startswith("On the test set it is tied with trial 1: the difference ")
    assert sentences[4].endswith(" may be 0.")
    assert sentences[5].startswith(
        "Trial 2 led the default by 0.2500 nats at selection and by 0.2050 in the repeats: 0.0450 of 0.2500 nats "
        "(18%) of the lead at selection vanished in the repeats (95 % interval ["
    )
    assert len(sentences) == 6


def test_a_worse_winner_is_called_worse_and_optimistic_without_repeats() -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.found(2.2)
    study.test(0, DIFFICULTY)
    study.test(1, DIFFICULTY + 0.3 + np.linspace(-0.1, 0.1, 60))

    sentences = told(study, Finalists(1, 0))

    assert sentences[0] == (
        "The winner is trial 1: validation_loss 2.2000 in 1 run, the one that it was chosen by (optimistic)."
    )
    assert sentences[1].startswith("On the test set it is worse than the default: +0.29")
    assert sentences[2] == "How much of the result is selection is unknown: trial 1: it has no repeats."


def test_a_winning_default_is_no_success_of_the_search() -> None:
    study = WrittenStudy()
    study.found(2.2)
    study.found(2.1)
    study.repeat(0, 2.2, 2.2)
    study.repeat(1, 2.3, 2.32)

    sentences = told(study, Finalists(1, 2, test=False))

    assert sentences[0].startswith("The winner is the default: validation_loss 2.2000 [")
    assert sentences[1] == "The search found nothing better than the default configuration."
    assert sentences[-1].startswith(
        "Trial 1 led the default by 0.1000 nats at selection and by -0.1100 in the repeats: all of the lead at "
        "selection, 0.2100 nats in all, vanished in the repeats (95 % interval ["
    )


def test_only_the_default_leaves_nothing_to_select() -> None:
    study = WrittenStudy()
    study.found(2.2)
    assert told(study, Finalists(1, 0, test=False))[-1] == (
        "How much of the result is selection is unknown: the default is the only finalist, so nothing was selected."
    )


def test_a_lead_that_grew_is_no_sign_of_selection() -> None:
    study = WrittenStudy()
    study.found(2.3)
    study.found(2.2)
    study.repeat(1, 2.19)
    study.repeat(0, 2.31)

    assert told(study, Finalists(1, 1, test=False))[-1].startswith(
        "Trial 1 led the default by 0.1000 nats at selection and by 0.1200 in the repeats: no sign that the choice "
        "flattered it (95 % interval ["
    )


def test_a_lead_that_was_none() -> None:
    study = WrittenStudy()
    study.found(2.0)
    study.found(2.1)
    study.repeat(0, 2.3, 2.3)
    study.repeat(1, 2.1, 2.1)

    assert told(study, Finalists(2, 2, test=False))[-1] == (
        "Trial 1 did not lead the default at selection (-0.1000 nats, +0.2000 in the repeats): there was no lead that "
        "selection could have flattered."
    )


def test_without_a_default_the_result_itself_is_told() -> None:
    study = WrittenStudy()
    study.found(FailureKind.OOM)
    study.found(2.1)
    study.repeat(1, 2.12, 2.14)

    assert told(study, Finalists(1, 2, test=False))[-1].startswith(
        "Trial 1 had 2.1000 on the run it was chosen by and 2.1300 in its repeats: 0.0300 nats of its result vanished "
        "(95 % interval ["
    )


def test_other_metrics_have_no_nats_and_keep_their_direction() -> None:
    study = WrittenStudy(Objective("exact_match", "maximize"))
    study.found(0.5)
    study.found(0.7)
    study.repeat(0, 0.5, 0.52)
    study.repeat(1, 0.6, 0.62)

    sentences = told(study, Finalists(1, 2, test=False))

    assert sentences[0].startswith("The winner is trial 1: exact_match 0.6100 [0.")
    assert sentences[-1].startswith(
        "Trial 1 led the default by 0.2000 at selection and by 0.1000 in the repeats: 0.1000 of 0.2000 (50%) of "
        "the lead"
    )


def test_no_winner() -> None:
    assert told(WrittenStudy(), Finalists()) == ["There is no winner."]


def test_how_estimates_are_to_be_read() -> None:
    sentences = estimates_sentences(compare(finished_study().history, Finalists(2, 2)))
    assert len(sentences) == 3
    assert sentences[0].startswith("Estimates are means over the repeats alone")
    assert sentences[1] == "With 2 repeats the intervals are wide; more repeats narrow them."
    assert sentences[2].startswith("The winner is the best of 3 such means")
    study = WrittenStudy()
    study.found(2.2)
    assert "optimistic" in estimates_sentences(compare(study.history, Finalists(1, 0)))[0]
    assert estimates_sentences(compare(WrittenStudy().history, Finalists())) == ()

from __future__ import annotations

import json

from controller.importance import Importance, Importances
from tests.thresher.written_study import rendered
from thresher.importance_view import MOST_SHOWN, importance_data, importance_view

FOUND = Importances(
    metric="validation_loss",
    budget=300,
    trials=20,
    failed=0,
    explained=0.63,
    parts=(
        Importance(("optimizer.learning_rate",), 0.5, 0.125),
        Importance(("lora.rank",), 0.25, 0.1),
        Importance(("optimizer.learning_rate", "lora.rank"), 0.0, 0.0),
    ),
)


def changed(**fields: object) -> Importances:
    return Importances(**{name: fields.get(name, getattr(FOUND, name)) for name in Importances.__slots__})  # type: ignore[attr-defined]


def test_for_people() -> None:
    lines = [line.split() for line in rendered(importance_view(FOUND, 900), 120).splitlines() if line.strip()]
    assert lines[0] == ["what", "explains", "validation_loss"]
    assert ["optimizer.learning_rate", "50.0%", "12.5%", "█" * 10] in lines
    assert ["lora.rank", "25.0%", "10.0%", "█" * 5] in lines
    assert ["optimizer.learning_rate", "×", "lora.rank", "0.0%", "0.0%"] in lines
    assert " ".join(lines[-2]) == "20 trials at 300 of 900 examples"
    assert " ".join(lines[-1]) == (
        "the forest explains 63% of the variance between trials that it has not seen (R² out of the bag)"
    )


def test_it_says_when_it_knows_little() -> None:
    text = rendered(importance_view(changed(explained=-0.2, failed=3), 27, "epochs"), 100)
    assert "20 trials at 300 of 27 epochs, 3 of them failed and counted as the worst" in text
    assert "the forest explains -20% of the variance" in text
    assert "that is little: these importances may be noise" in text


def test_a_long_list_is_cut() -> None:
    parts = tuple(Importance((f"x.{number}",), 0.2 / (number + 1), 0.0) for number in range(MOST_SHOWN + 4))
    text = rendered(importance_view(changed(parts=parts), 900), 100)
    assert "4 more rows not shown, none above 1.2%" in text
    assert text.count("x.") == MOST_SHOWN


def test_as_data() -> None:
    data = json.loads(json.dumps(importance_data(FOUND)))
    assert data["importances"][2] == {
        "parameters": ["optimizer.learning_rate", "lora.rank"],
        "importance": 0.0,
        "std": 0.0,
    }
    rest = {name: data[name] for name in data if name != "importances"}
    assert rest == {"metric": "validation_loss", "budget": 300, "trials": 20, "failed": 0, "explained": 0.63}

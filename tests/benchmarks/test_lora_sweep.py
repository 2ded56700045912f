from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

CSV = """model,learning_rate,lora_rank,test_nll,train_nll,minutes
meta-llama/Llama-3.1-8B,4e-05,16,0.62,0.6,1
meta-llama/Llama-3.1-8B,3e-04,16,0.60,0.6,1
meta-llama/Llama-3.1-8B,3e-04,64,0.59,0.6,1
meta-llama/Llama-3.1-8B,3e-04,64,0.61,0.6,1
meta-llama/Llama-3.1-8B,1e-03,64,7.5,0.6,1
somebody/Unknown-9B,1e-04,4,0.52,0.6,1
somebody/Unknown-9B,1e-03,4,0.50,0.6,1
"""


@pytest.fixture
def sweeps(tmp_path: Path) -> Any:
    import lora_sweep

    (tmp_path / "lora_sweep.csv").write_text(CSV)
    return lora_sweep.load(tmp_path)


def test_a_proposal_stands_for_the_nearest_pair(sweeps: Any) -> None:
    llama, _ = sweeps

    def loss(rate: float, rank: int) -> float:
        return float(llama.loss({"optimizer.learning_rate": rate, "lora.rank": rank}))

    assert llama.best == 0.60
    assert loss(3e-4, 64) == 0.60  # the middle of its repeats
    assert loss(5e-5, 8) == 0.62
    assert loss(1e-3, 128) == 7.5
    assert loss(3e-4, 32) == 0.60  # equally near to 16 and 64


def test_priors_are_those_of_the_family_and_do_not_move_with_a_batch_size(sweeps: Any) -> None:
    llama, unknown = sweeps
    assert llama.space.names == ("optimizer.learning_rate", "lora.rank")
    assert llama.default["optimizer.learning_rate"] == 2.9e-4  # 5e-4 * (2000 / 4096) ** 0.781
    assert llama.space.priors["optimizer.learning_rate"].centre == 2.9e-4
    assert llama.space.priors["optimizer.learning_rate"].scaled_by is None
    assert unknown.default["optimizer.learning_rate"] == 5e-4  # of a width of 2000
    assert unknown.space.priors["optimizer.learning_rate"].deviation > 0.35  # nobody measured it


def test_all_models_of_the_sweep_have_a_family() -> None:
    import lora_sweep

    assert len(lora_sweep.MODELS) == 35
    for model in lora_sweep.MODELS:
        space, default = lora_sweep.family_of(model)
        space.validate(default)


def test_rows_say_how_many_trials_it_took(monkeypatch: pytest.MonkeyPatch, sweeps: Any, tmp_path: Path) -> None:
    import lora_sweep

    arguments = ["--tables", tmp_path, "--seeds", 4, "--only", "family-priors", "random", "--by-model"]
    monkeypatch.setattr(sys, "argv", ["lora_sweep.py", "--json", str(tmp_path / "rows.json"), *map(str, arguments)])
    lora_sweep.main()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["system"], row["model"]) for row in rows] == [
        (system, model)
        for system in ("family-priors", "random")
        for model in ("all", "meta-llama/Llama-3.1-8B", "somebody/Unknown-9B")
    ]
    assert rows[1]["mean_trials"] == 1.0  # the default is right
    assert rows[0]["mean_trials"] < rows[3]["mean_trials"]
    assert rows[0]["runs"] == 8


def test_tpe_of_optuna_runs_beside(sweeps: Any) -> None:
    import lora_sweep

    losses = lora_sweep.systems()["optuna-tpe"](sweeps[0], 0)
    assert len(losses) == lora_sweep.TRIALS
    assert losses == lora_sweep.systems()["optuna-tpe"](sweeps[0], 0)


def test_without_tables_the_short_form_leaves_it_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import lora_sweep

    monkeypatch.setattr(sys, "argv", ["lora_sweep.py", "--quick"])
    lora_sweep.main()
    assert "left out" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["lora_sweep.py"])
    with pytest.raises(SystemExit, match="expected --tables PATH"):
        lora_sweep.main()

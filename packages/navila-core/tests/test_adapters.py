"""Adapters: those of PEFT and of the original's training are read, PEFT reads ours, and merging changes no logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from navila.cli import main
from navila.errors import CheckpointError, ConfigError
from navila.model.adapters import add_lora, has_adapter, load_adapter, merge, save_adapter
from navila.model.load import load, template_for
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM


@pytest.fixture(scope="session")
def base(goldens: Path) -> Path:
    """A Llama and a SigLIP, as the original code saved them."""
    return goldens / "H_full_model" / "llama_siglip" / "ckpt"


def loaded(folder: Path, **options: Any) -> Any:
    return load(folder, device="cpu", dtype="float32", **options)


def logits_of(model: Any) -> Tensor:
    ids = torch.tensor([[5, -200, 6, 7]])
    pixels = torch.linspace(-1, 1, 3 * 70 * 70).reshape(1, 3, 70, 70)
    with torch.no_grad():
        return model.eval()(ids, pixels).logits


def shake(model: torch.nn.Module, std: float = 0.03) -> None:
    """Random updates: those of a new adapter are zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def adapted(base: Path, folder: Path, **options: Any) -> Tensor:
    """Save an adapter with random updates; the logits it gives."""
    model = loaded(base)
    model.set_trainable(llm=False, vision_tower=False, mm_projector=False)
    add_lora(model, **{"r": 4, "alpha": 8, "dropout": 0.0, **options})
    shake(model)
    save_adapter(model, folder, base=base)
    return logits_of(model)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "options",
    [
        {"parts": ("llm",)},
        {"parts": ("llm",), "use_dora": True},
        {"parts": ("vision_tower",)},
        {"parts": ("llm", "vision_tower"), "use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"parts": ("llm",), "alpha_pattern": {"v_proj": 3}, "modules_to_save": ["lm_head"]},
        {"parts": ("llm",), "targets": ["q_proj", "lm_head"]},
        {"parts": ("llm",), "targets": ["embed_tokens"]},
    ],
    ids=["llm", "dora", "vision", "both", "whole modules", "head", "embeddings"],
)
def test_saved_loaded_and_merged_it_gives_the_same_logits(base: Path, tmp_path: Path, options: Any) -> None:
    wanted = adapted(base, tmp_path / "adapter", **options)
    model = loaded(base)
    assert (logits_of(model) - wanted).abs().max() > 1e-2
    load_adapter(model, tmp_path / "adapter")
    assert has_adapter(model)
    assert torch.equal(logits_of(model), wanted)
    merge(model)
    assert not has_adapter(model)
    assert not any("lora" in name or "base_layer" in name for name, _ in model.named_modules())
    torch.testing.assert_close(logits_of(model), wanted, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits_of(loaded(tmp_path / "adapter")), wanted, rtol=0, atol=1e-5)


def test_only_the_adapter_and_what_is_tuned_besides_it_trains_and_is_saved(base: Path, tmp_path: Path) -> None:
    model = loaded(base)
    model.set_trainable(llm=False, vision_tower=False, mm_projector=True)
    add_lora(model, r=2, parts=("llm", "vision_tower"))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or name.startswith("mm_projector.") for name in trained)
    assert any(name.startswith("vision_tower.") for name in trained)
    with torch.no_grad():
        for parameter in model.mm_projector.parameters():
            parameter.mul_(1.5)
    model.config.num_video_frames = 13
    model.template = template_for("vicuna_v1", model.config, model.tokenizer)
    wanted = logits_of(model)
    save_adapter(model, tmp_path)
    assert load_file(tmp_path / "non_lora_trainables.safetensors").keys() == {
        f"mm_projector.{name}" for name, _ in model.mm_projector.named_parameters()
    }
    assert not any("base_layer" in name for name in load_file(tmp_path / "adapter_model.safetensors"))
    again = loaded(tmp_path, model_base=base)
    torch.testing.assert_close(logits_of(again), wanted, rtol=0, atol=1e-5)
    assert again.config.num_video_frames == 13
    assert again.template.name == model.template.name != loaded(base).template.name
    assert loaded(tmp_path, model_base=base, template="llama_3").template.name == "llama_3"


def test_what_never_runs_is_not_trained(base: Path) -> None:
    model = loaded(base)
    model.set_trainable(llm=False, vision_tower=False, mm_projector=True)
    add_lora(model, r=2, parts=("llm", "vision_tower"), targets=["q_proj"])
    logits = model.train()(torch.tensor([[5, -200, 6, 7]]), torch.zeros(1, 3, 70, 70)).logits
    logits.sum().backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(name.startswith("vision_tower.") for name in trained)
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []


def test_plain_peft_reads_an_adapter_of_the_language_model(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path, use_dora=True)
    model = loaded(base)
    load_adapter(model, tmp_path)
    bare = LlamaForCausalLM.from_pretrained(base / "llm", dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(bare, str(tmp_path)).eval()(ids).logits
        assert torch.equal(theirs, model.llm(ids).logits)


def test_an_adapter_that_plain_peft_made_of_the_bare_language_model_is_read(base: Path, tmp_path: Path) -> None:
    bare = LlamaForCausalLM.from_pretrained(base / "llm", dtype=torch.float32)
    theirs = peft.get_peft_model(bare, peft.LoraConfig(r=4, target_modules=["q_proj", "out_proj", "up_proj"]))
    shake(theirs)
    theirs.save_pretrained(str(tmp_path))
    ids = torch.tensor([[5, 6, 7, 8]])
    model = loaded(tmp_path, model_base=base)
    with torch.no_grad():
        torch.testing.assert_close(model.llm(ids).logits, theirs.eval()(ids).logits, rtol=0, atol=1e-5)
    # `out_proj` is a name of the encoder only, and not of the module the adapter was made of.
    assert not any("lora" in name for name, _ in model.named_modules())


def as_the_original(folder: Path) -> None:
    """Turn a saved adapter into what the original's training leaves: pickled tensors, names of wrapped modules."""
    tensors = load_file(folder / "adapter_model.safetensors")
    modules = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in tensors}
    edit(folder / "adapter_config.json", target_modules=sorted(modules))
    torch.save(tensors, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    whole = load_file(folder / "non_lora_trainables.safetensors")
    torch.save({f"base_model.model.{name}": t for name, t in whole.items()}, folder / "non_lora_trainables.bin")
    (folder / "non_lora_trainables.safetensors").unlink()


def test_what_the_original_training_leaves_is_read(base: Path, tmp_path: Path) -> None:
    model = loaded(base)
    model.set_trainable(llm=False, vision_tower=False, mm_projector=True)
    add_lora(model, r=4, parts=("llm", "vision_tower"), dropout=0.0)
    shake(model)
    with torch.no_grad():
        for parameter in model.mm_projector.parameters():
            parameter.mul_(0.5)
    wanted = logits_of(model)
    save_adapter(model, tmp_path)
    as_the_original(tmp_path)
    # Names of files are those of the released checkpoints.
    name = "vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    assert name in json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    torch.testing.assert_close(logits_of(loaded(tmp_path, model_base=base)), wanted, rtol=0, atol=1e-5)


def test_tokens_that_were_added_in_training_come_with_the_adapter(base: Path, tmp_path: Path) -> None:
    from navila.model.vocabulary import grow_vocabulary

    model = loaded(base)
    model.tokenizer.add_tokens([f"<t{i}>" for i in range(2000)])
    grow_vocabulary(model.llm, len(model.tokenizer))
    model.set_trainable(llm=False, vision_tower=False, mm_projector=False)
    add_lora(model, r=2, dropout=0.0, modules_to_save=["embed_tokens", "lm_head"])
    with torch.no_grad():
        model.llm.model.embed_tokens.modules_to_save.default.weight[-1] += 1
    save_adapter(model, tmp_path / "adapter")
    again = loaded(tmp_path / "adapter", model_base=base)
    assert len(again.tokenizer) == len(model.tokenizer)
    last = torch.tensor([[5, len(model.tokenizer) - 1]])
    with torch.no_grad():
        torch.testing.assert_close(again(last).logits, model.eval()(last).logits, rtol=0, atol=1e-5)


def test_merging_an_adapter_of_the_head_parts_tied_tables(base: Path, tmp_path: Path) -> None:
    tied = tmp_path / "tied"
    model = loaded(base)
    model.llm.config.tie_word_embeddings = True
    model.llm.tie_weights()
    model.save_pretrained(tied)
    wanted = adapted(tied, tmp_path / "adapter", targets=["q_proj", "lm_head"])
    merged = loaded(tmp_path / "adapter")
    torch.testing.assert_close(logits_of(merged), wanted, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(loaded(tmp_path / "merged")), wanted, rtol=0, atol=1e-5)


def test_merge_lora_writes_a_whole_model(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = adapted(base, tmp_path / "adapter", parts=("llm", "vision_tower"))
    command = ["model", "merge-lora", str(tmp_path / "adapter"), "--model-base", str(base)]
    assert main([*command, "--output", str(tmp_path / "merged"), "--dtype", "float32"]) == 0
    torch.testing.assert_close(logits_of(loaded(tmp_path / "merged")), wanted, rtol=0, atol=1e-5)
    capsys.readouterr()
    assert main([*command, "--output", str(tmp_path / "merged")]) == 2
    assert "--force" in capsys.readouterr().err


def damage(what: str, adapter: Path, tmp_path: Path) -> list[str]:
    """Break an adapter's folder; words that the sentence about it holds."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    names: Sequence[str] = sorted(tensors)
    if what == "tensor missing":
        save_file({name: tensors[name] for name in names[1:]}, path)
        return ["adapter_model.safetensors", "lacks", names[0].removeprefix("base_model.model.")]
    if what == "another size":
        save_file({**tensors, names[0]: torch.zeros(4, 3)}, path)
        return ["adapter_model.safetensors", names[0].removeprefix("base_model.model."), "(4, 3)"]
    if what == "another model":
        save_file({name.replace("layers.", "blocks."): tensor for name, tensor in tensors.items()}, path)
        return ["adapter_model.safetensors", "blocks.", "does not have"]
    if what == "more than asked for":
        edit(adapter / "adapter_config.json", target_modules=["k_proj"])
        return ["adapter_model.safetensors", "adapter_config.json"]
    if what == "weights missing":
        path.unlink()
        return ["adapter_model.safetensors", "partial"]
    if what == "corrupt":
        path.write_bytes(path.read_bytes()[:-100])
        return ["adapter_model.safetensors", "corrupt"]
    if what == "another kind":
        edit(adapter / "adapter_config.json", peft_type="IA3")
        return ["adapter_config.json", "IA3"]
    assert what == "whole parameter of another size"
    save_file({"mm_projector.layers.1.weight": torch.zeros(3)}, adapter / "non_lora_trainables.safetensors")
    return ["non_lora_trainables.safetensors", "mm_projector.layers.1.weight"]


@pytest.mark.parametrize(
    "what",
    [
        "tensor missing",
        "another size",
        "another model",
        "more than asked for",
        "weights missing",
        "corrupt",
        "another kind",
        "whole parameter of another size",
    ],
)
def test_a_broken_adapter_is_one_sentence(base: Path, tmp_path: Path, what: str) -> None:
    adapted(base, tmp_path / "adapter")
    words = damage(what, tmp_path / "adapter", tmp_path)
    with pytest.raises(CheckpointError) as raised:
        loaded(tmp_path / "adapter")
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


def test_an_adapter_needs_its_base(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapted(base, tmp_path)
    edit(tmp_path / "adapter_config.json", base_model_name_or_path="somebody/else")
    with pytest.raises(CheckpointError, match=r"'somebody/else'.*--model-base"):
        load(tmp_path)
    assert main(["infer", "-m", str(tmp_path), "Where?"]) == 2
    assert "--model-base" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no adapter"):
        load(base, model_base=base)


def test_a_model_with_an_adapter_is_not_saved_as_a_whole_model(base: Path, tmp_path: Path) -> None:
    model = loaded(base)
    add_lora(model, r=2)
    with pytest.raises(ConfigError, match="merge"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="already"):
        add_lora(model, r=2)
    assert not list(tmp_path.iterdir())

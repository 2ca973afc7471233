"""Checkpoints of other layouts: LLaVA 1.5 and its conversion for transformers give transformers' own logits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.cli import main
from navila.errors import CheckpointError, NavilaError
from navila.model.location import read_root
from navila.model.media import MediaReader
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

IMAGE, SIDE, PATCHES = 1000, 32, 16
TOKENIZER = "llama2_like_spm"


@pytest.fixture(scope="module")
def reference() -> Any:
    """LLaVA as transformers has it, tiny and random."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    text = LlamaConfig(**sizes, vocab_size=1808, num_hidden_layers=2, max_position_embeddings=512)
    vision = CLIPVisionConfig(**sizes, num_hidden_layers=3, image_size=SIDE, patch_size=8)
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    ).eval()


@pytest.fixture(scope="module")
def tower(reference: Any, goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vision encoder in a folder of its own, as `openai/clip-vit-large-patch14-336` is."""
    folder = tmp_path_factory.mktemp("clip")
    reference.model.vision_tower.save_pretrained(folder)
    processor = {
        "crop_size": SIDE,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": SIDE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def llava_state(reference: Any, *, tower: bool) -> dict[str, Tensor]:
    """The reference's weights under the names of the original LLaVA."""
    state = {}
    for name, tensor in reference.state_dict().items():
        name = name.replace("model.language_model.", "model.")
        name = name.replace("multi_modal_projector.linear_1.", "mm_projector.0.")
        name = name.replace("multi_modal_projector.linear_2.", "mm_projector.2.")
        name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        if tower or "vision_tower" not in name:
            state[name] = tensor.clone()
    return state


def write_llava(folder: Path, reference: Any, tower: Path, goldens: Path, **fields: Any) -> Path:
    """A folder as `liuhaotian/llava-v1.5-7b`, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (goldens / "tokenizers" / TOKENIZER).iterdir():
        shutil.copyfile(file, folder / file.name)
    text = reference.config.text_config
    config = {
        "_name_or_path": "llava-v1.5-7b",
        "architectures": ["LlavaLlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "freeze_mm_mlp_adapter": False,
        "freeze_mm_vision_resampler": False,
        "hidden_act": "silu",
        "hidden_size": text.hidden_size,
        "image_aspect_ratio": "pad",
        "initializer_range": 0.02,
        "intermediate_size": text.intermediate_size,
        "max_length": 4096,
        "max_position_embeddings": text.max_position_embeddings,
        "mm_hidden_size": reference.config.vision_config.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "model_type": "llava",
        "num_attention_heads": text.num_attention_heads,
        "num_hidden_layers": text.num_hidden_layers,
        "num_key_value_heads": text.num_key_value_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": text.rms_norm_eps,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "tune_mm_mlp_adapter": False,
        "tune_mm_vision_resampler": False,
        "unfreeze_mm_vision_tower": False,
        "use_cache": True,
        "use_mm_proj": True,
        "vocab_size": text.vocab_size,
    }
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    return folder


def write_shards(folder: Path, state: dict[str, Tensor], *, old: bool) -> None:
    """Two weight files and their index, as safetensors or in the old form."""
    names = sorted(state)
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    weight_map: dict[str, str] = {}
    for number, half in enumerate(halves, 1):
        part = {name: state[name] for name in half}
        stem = "pytorch_model" if old else "model"
        file = f"{stem}-{number:05d}-of-00002.{'bin' if old else 'safetensors'}"
        torch.save(part, folder / file) if old else save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(half, file)
    index = "pytorch_model.bin.index.json" if old else "model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def llava(reference: Any, tower: Path, goldens: Path, tmp_path: Path) -> Path:
    folder = write_llava(tmp_path / "llava", reference, tower, goldens)
    write_shards(folder, llava_state(reference, tower=False), old=True)
    return folder


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((60, 40), 80).convert("RGB")


def loaded(folder: Path, **options: Any) -> Any:
    return navila.load(folder, **{"device": "cpu", "dtype": "float32", **options})


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.tensor([[1, 5, -200, 6, 7, 8, 900]]), torch.randn(1, 3, SIDE, SIDE)


def logits_of(model: Any) -> Tensor:
    ids, pixels = inputs()
    with torch.no_grad():
        return model(ids, pixels).logits


def reference_logits(reference: Any) -> Tensor:
    """What transformers computes, whose prompts have the image's token once for each of its patches."""
    ids, pixels = inputs()
    token = reference.config.image_token_id
    spread = [[token] * PATCHES if i == -200 else [i] for i in ids[0].tolist()]
    with torch.no_grad():
        return reference(input_ids=torch.tensor([[i for ids in spread for i in ids]]), pixel_values=pixels).logits


@pytest.mark.parametrize("old", [True, False], ids=["bin", "safetensors"])
@pytest.mark.parametrize("model_type", ["llava", "llava_llama"])
def test_llava_1_5_has_the_logits_of_transformers(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path, old: bool, model_type: str
) -> None:
    folder = write_llava(tmp_path / "it", reference, tower, goldens, model_type=model_type)
    write_shards(folder, llava_state(reference, tower=False), old=old)
    torch.testing.assert_close(logits_of(loaded(folder)), reference_logits(reference), atol=1e-4, rtol=0)


def test_the_conversion_for_transformers_has_its_logits(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "llava-1.5-7b-hf"
    reference.save_pretrained(folder)
    shutil.copyfile(tower / "preprocessor_config.json", folder / "preprocessor_config.json")
    for file in (goldens / "tokenizers" / TOKENIZER).iterdir():
        shutil.copyfile(file, folder / file.name)
    model = loaded(folder)
    torch.testing.assert_close(logits_of(model), reference_logits(reference), atol=1e-4, rtol=0)
    assert model.template.name == "vicuna_v1"
    model.save_pretrained(tmp_path / "released")
    assert "model.norm.weight" in load_file(tmp_path / "released" / "llm" / "model.safetensors")
    assert torch.equal(logits_of(loaded(tmp_path / "released")), logits_of(model))


def test_an_encoder_trained_with_the_rest_is_the_one_in_the_checkpoint(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(tower, tmp_path / "clip")
    state = {name: tensor + 1 for name, tensor in load_file(other / "model.safetensors").items()}
    save_file(state, other / "model.safetensors", metadata={"format": "pt"})
    folder = write_llava(tmp_path / "it", reference, other, goldens)
    write_shards(folder, llava_state(reference, tower=True), old=False)
    torch.testing.assert_close(logits_of(loaded(folder)), reference_logits(reference), atol=1e-4, rtol=0)


def test_the_encoder_can_be_given(
    llava: Path, tower: Path, reference: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(llava, mm_vision_tower="nobody/no-such-encoder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"mm_vision_tower 'nobody/no-such-encoder'.*--vision-tower"):
        loaded(llava)
    given = loaded(llava, vision_tower=tower)
    torch.testing.assert_close(logits_of(given), reference_logits(reference), atol=1e-4, rtol=0)
    asked = ["infer", "-m", str(llava), "Hello?", "--max-new-tokens", "1", "--device", "cpu", "--no-stream"]
    assert main([*asked, "--vision-tower", str(tower)]) == 0
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "mm_vision_tower" in said
    assert "Traceback" not in said


def test_it_is_saved_in_the_released_layout_and_loads_equal(llava: Path, tower: Path, tmp_path: Path) -> None:
    model = loaded(llava)
    assert (model.template.name, model.config.image_aspect_ratio) == ("vicuna_v1", "pad")
    model.save_pretrained(tmp_path / "saved")
    again = loaded(tmp_path / "saved")
    assert torch.equal(logits_of(again), logits_of(model))
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (llava, tmp_path / "saved"))
    assert before.keys() - {"model_type", "architectures"} <= after.keys() | after["llm_cfg"].keys()
    assert after["llm_cfg"]["model_type"] == "llama"
    assert (again.template.name, again.config.image_aspect_ratio) == ("vicuna_v1", "pad")


def test_a_question_is_asked_in_the_words_of_vicuna(llava: Path, picture: Image.Image) -> None:
    model = loaded(llava)
    turns = MediaReader(model).turns([picture, "What is this?"])
    prompt = model.template.render([(turn.role, turn.text) for turn in turns] + [("assistant", None)])
    assert prompt.endswith(" USER: <image>\nWhat is this? ASSISTANT:")
    assert isinstance(model.generate_content([picture, "What is this?"], max_new_tokens=2), str)


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_a_projector_trained_alone_goes_on_its_language_model(
    reference: Any, tower: Path, goldens: Path, tmp_path: Path, prefix: str
) -> None:
    base = tmp_path / "vicuna"
    LlamaForCausalLM(reference.config.text_config).save_pretrained(base)
    state = llava_state(reference, tower=False)
    own = {name: tensor for name, tensor in state.items() if "mm_projector" not in name}
    save_file(own, base / "model.safetensors", metadata={"format": "pt"})
    for file in (goldens / "tokenizers" / TOKENIZER).iterdir():
        shutil.copyfile(file, base / file.name)
    folder = write_llava(tmp_path / "pretrain", reference, tower, goldens)
    joint = {prefix + name.removeprefix("model."): t for name, t in state.items() if "mm_projector" in name}
    torch.save(joint, folder / "mm_projector.bin")
    with pytest.raises(CheckpointError, match="model_base"):
        loaded(folder)
    model = loaded(folder, model_base=base)
    torch.testing.assert_close(logits_of(model), reference_logits(reference), atol=1e-4, rtol=0)


def edit(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class Bomb:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def without(folder: Path, tensor: str) -> None:
    """Take a tensor out of its shard, the index still naming it."""
    for shard in folder.glob("pytorch_model-*.bin"):
        state = torch.load(shard, weights_only=True)
        state.pop(tensor, None)
        torch.save(state, shard)


def reshaped(folder: Path, tensor: str) -> None:
    for shard in folder.glob("pytorch_model-*.bin"):
        state = torch.load(shard, weights_only=True)
        if tensor in state:
            torch.save({**state, tensor: torch.zeros(3, 5)}, shard)


SHARD, INDEX = "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / SHARD).unlink(), SHARD),
        (lambda f: cut(f / SHARD), SHARD),
        (lambda f: (f / SHARD).write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda f: torch.save({"model.mm_projector.0.weight": Bomb()}, f / SHARD), "mkdir"),
        (lambda f: torch.save([torch.zeros(1)], f / SHARD), "no table of tensors"),
        (lambda f: (f / INDEX).write_text('{"weight_map": ["a"]}'), "weight_map"),
        (lambda f: (f / INDEX).write_text("{"), INDEX),
        (lambda f: without(f, "model.mm_projector.0.bias"), "layers.0.bias"),
        (lambda f: reshaped(f, "model.mm_projector.0.bias"), "layers.0.bias"),
        (lambda f: without(f, "model.norm.weight"), "model.norm.weight"),
        (lambda f: reshaped(f, "model.norm.weight"), "model.norm.weight"),
        (lambda f: (f / "tokenizer_config.json").unlink(), "tokenizer_config.json"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json"),
        (lambda f: edit(f, mm_vision_tower=7), "mm_vision_tower"),
        (lambda f: edit(f, mm_vision_select_layer="last"), "mm_vision_select_layer"),
        (lambda f: edit(f, mm_projector_type="mlp9"), "mlp9"),
        (lambda f: edit(f, hidden_size="wide"), "hidden_size"),
        (lambda f: edit(f, image_aspect_ratio="anyres"), "image_aspect_ratio 'anyres'"),
        (lambda f: edit(f, mm_patch_merge_type="spatial_unpad"), "mm_patch_merge_type 'spatial_unpad'"),
        (lambda f: edit(f, model_type="llava_mpt"), "'llava_mpt'"),
        (lambda f: edit(f, model_type=["llava"]), "model_type"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(llava: Path, damage: Any, said: str) -> None:
    damage(llava)
    with pytest.raises(NavilaError) as caught:
        loaded(llava)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert llava.name in message or "mlp9" in message
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "is empty"),
        ({"model-q4.gguf": "GGUF"}, "GGUF is not read"),
        ({"adapter_config.json": "{}", "adapter_model.safetensors": ""}, "is an adapter"),
        ({"checkpoint-5/config.json": "{}", "trainer_state.json": "{}"}, "checkpoint-5"),
        ({"notes.txt": ""}, "config.json is missing"),
        ({"config.json": '{"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}'}, "navila model build --llm"),
        ({"config.json": '{"model_type": "siglip_vision_model", "architectures": ["SiglipVisionModel"]}'}, "--encoder"),
        ({"config.json": '{"model_type": "bert", "architectures": ["BertModel"]}'}, "expected one of"),
        (
            {"config.json": '{"model_type": "llava_mpt", "mm_vision_tower": "x", "architectures": ["AForCausalLM"]}'},
            "'llava_mpt', no composed model: expected one of",
        ),
        ({"config.json": '{"model_type": "llava"}'}, "neither llm_cfg, mm_vision_tower nor text_config"),
        ({"config.json": '{"model_type": "llava_llama", "llm_cfg": {}}'}, "no folder llm/"),
    ],
)
def test_other_folders_are_told_what_they_are(tmp_path: Path, files: dict[str, str], said: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        loaded(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_no_folder(llava: Path) -> None:
    with pytest.raises(CheckpointError, match="is a file"):
        loaded(llava / "config.json")


def test_its_layout_is_known_before_torch_is_imported(llava: Path) -> None:
    read_root(llava)
    code = f"from pathlib import Path; from navila.model.location import read_root; read_root(Path({str(llava)!r}))"
    check = "; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code + check], check=False).returncode == 0


@pytest.fixture
def vila(goldens: Path, tmp_path: Path, writable_copy: Callable[[Path, Path], Path]) -> Path:
    """A writable copy of a checkpoint of VILA 1.5's files and keys, made by the original code."""
    folder = writable_copy(goldens / "H_full_model" / "llama_siglip" / "ckpt", tmp_path / "mpt-yi-intern-llama3")
    edit(folder, conversation=None, chat_template=None, resume_path=None, _name_or_path="/home/x/qwen-nvila")
    return folder


@pytest.mark.parametrize(
    ("tokenizer", "template"),
    [("llama2_like_spm", "vicuna_v1"), ("llama3_like", "llama_3"), ("chatml_like", "hermes-2")],
)
def test_the_template_of_vila_1_5_is_told_by_its_tokenizer(
    vila: Path, goldens: Path, tokenizer: str, template: str
) -> None:
    for file in (vila / "llm").glob("*token*"):
        file.unlink()
    for file in (goldens / "tokenizers" / tokenizer).iterdir():
        shutil.copyfile(file, vila / "llm" / file.name)
    settings = vila / "llm" / "tokenizer_config.json"
    if template == "hermes-2":
        # Nous-Hermes-2-Yi-34B, the language model of VILA1.5-40b, has a chat template that VILA never used.
        chat = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": chat}))
    assert loaded(vila).template.name == template


def test_an_encoder_that_is_only_named_is_fetched(vila: Path, tmp_path: Path) -> None:
    before = loaded(vila)
    shutil.move(vila / "vision_tower", tmp_path / "siglip")
    with pytest.raises(CheckpointError, match="vision_tower"):
        loaded(vila)
    edit(vila, vision_tower_cfg=str(tmp_path / "siglip"))
    ids, pixels = torch.tensor([[5, -200, 6]]), torch.randn(1, 3, 70, 70)
    assert torch.equal(loaded(vila)(ids, pixels).logits, before(ids, pixels).logits)


@pytest.mark.parametrize("scales", ["70,140", [70, 140]])
def test_scales_are_read_as_text_or_list(vila: Path, scales: Any) -> None:
    """As `VILA1.5-3b-s2` has them; the projector is as wide as all scales together."""
    edit(vila, s2=True, s2_scales=scales, s2_max_split_size=70, mm_hidden_size=96)
    with pytest.raises(CheckpointError, match=r"layers.1.weight"):
        loaded(vila)
    state = load_file(vila / "mm_projector" / "model.safetensors")
    wide = {
        name: torch.cat([t, t], dim=-1) if name.startswith("layers.1.") or name == "layers.2.weight" else t
        for name, t in state.items()
    }
    save_file(wide, vila / "mm_projector" / "model.safetensors", metadata={"format": "pt"})
    model = loaded(vila)
    assert model.vision_tower.scales.sides == (70, 140)
    assert model.image_processor.target_size == (140, 140)

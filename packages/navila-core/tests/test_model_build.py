"""Models are composed from names, configs and folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import CheckpointError, ConfigError, UnknownComponentError
from navila.model import NavilaConfig, build
from transformers import PreTrainedTokenizerFast

LLM = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.fixture(scope="module")
def words(goldens: Path) -> Path:
    return goldens / "tokenizers" / "llama3_like"


def built(words: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(**{"llm": LLM, "vision_tower": TOWER, "mm_projector": "mlp_downsample", "tokenizer": words, **options})


def test_from_configs(words: Path) -> None:
    model = built(words, num_video_frames=5)
    assert model.config.num_video_frames == 5
    assert model.config.image_aspect_ratio == "resize"
    assert model.tokens_per_image == 4
    assert model.llm.config.vocab_size == len(model.tokenizer)
    assert model.template.name == "llama_3"
    assert model.image_processor.target_size == (64, 64)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_same_seed_gives_the_same_weights(words: Path) -> None:
    first, second = built(words).state_dict(), built(words).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_callers_configs_are_left_alone(words: Path) -> None:
    llm, tower = dict(LLM), dict(TOWER)
    built(words, llm=llm, vision_tower=tower)
    assert (llm, tower) == (LLM, TOWER)


@pytest.mark.parametrize(
    ("projector", "saved", "tokens"),
    [
        ("mlp-downsample", "mlp_downsample", 4),
        ("mlp_downsample", "mlp_downsample", 4),
        ("linear", "linear", 16),
        ("mlp2x_gelu", "mlp2x_gelu", 16),
        ({"mm_projector_type": "mlp_downsample", "downsample_order": "row"}, "mlp_downsample", 4),
    ],
)
def test_a_built_model_is_loaded_again(words: Path, tmp_path: Path, projector: Any, saved: str, tokens: int) -> None:
    model = built(words, mm_projector=projector).eval()
    model.save_pretrained(tmp_path)
    again = navila.load(tmp_path, dtype="float32", device="cpu")
    assert again.mm_projector.config == model.mm_projector.config
    assert again.mm_projector.config["mm_projector_type"] == saved
    assert again.tokens_per_image == tokens
    ids, pixels = torch.tensor([[1, -200, 2]]), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(ids, pixels).logits, model(ids, pixels).logits)


def test_an_identity_projector_needs_equal_widths(words: Path, tmp_path: Path) -> None:
    built(words, mm_projector="identity", vision_tower={**TOWER, "hidden_size": 32}).save_pretrained(tmp_path)
    assert navila.load(tmp_path, device="cpu").tokens_per_image == 16
    with pytest.raises(ConfigError, match="24"):
        built(words, mm_projector="identity")


def test_parts_come_from_folders(words: Path, tmp_path: Path) -> None:
    first = built(words)
    first.save_pretrained(tmp_path)
    parts = {part: tmp_path / part for part in ("llm", "vision_tower", "mm_projector")}
    second = build(**parts)
    assert len(second.tokenizer) == len(first.tokenizer)
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_an_encoder_comes_by_its_registered_name(words: Path) -> None:
    with torch.device("meta"):
        model = built(words, vision_tower="siglip-so400m-384", mm_projector="mlp_downsample")
    assert model.tokens_per_image == 196
    assert model.config.mm_hidden_size == 1152
    assert model.mm_projector.in_features == 1152


def test_a_tokenizer_without_padding_gets_a_pad_token_and_the_vocabulary_a_row(goldens: Path, tmp_path: Path) -> None:
    words = PreTrainedTokenizerFast.from_pretrained(goldens / "tokenizers" / "llama3_like")
    words.pad_token = None
    before = len(words)
    model = built(goldens, llm={**LLM, "vocab_size": before}, tokenizer=words)
    assert model.tokenizer.pad_token_id is not None
    assert model.llm.config.vocab_size == len(model.tokenizer)
    assert words.pad_token is None


def test_answers_of_a_random_model_end_at_the_tokenizers_end(words: Path) -> None:
    model = built(words)
    assert model.llm.generation_config.eos_token_id == model.tokenizer.eos_token_id
    assert set(model.stop_ids()) == {
        model.tokenizer.convert_tokens_to_ids(t) for t in ("<|eot_id|>", "<|end_of_text|>")
    }


def test_new_rows_are_the_mean_and_old_ones_stay(words: Path) -> None:
    from navila.model.vocabulary import grow_vocabulary

    llm = built(words).llm
    old = [table.weight.clone() for table in (llm.get_input_embeddings(), llm.get_output_embeddings())]
    grow_vocabulary(llm, old[0].shape[0] + 3)
    grow_vocabulary(llm, 10)
    for before, table in zip(old, (llm.get_input_embeddings(), llm.get_output_embeddings()), strict=True):
        assert table.weight.shape[0] == before.shape[0] + 3
        assert torch.equal(table.weight[:-3], before)
        torch.testing.assert_close(table.weight[-3:], before.mean(0).expand(3, -1))


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"llm": {"hidden_size": 8}}, ConfigError, "model_type"),
        ({"llm": "llama"}, ConfigError, "family"),
        ({"llm": {"model_type": "lama"}}, UnknownComponentError, "lama"),
        ({"vision_tower": {"model_type": "siglp"}}, UnknownComponentError, "siglp"),
        ({"vision_tower": "siglip"}, ConfigError, "siglip"),
        ({"mm_projector": "mlp_downsampl"}, UnknownComponentError, "mlp_downsampl"),
        (
            {"mm_projector": {"mm_projector_type": "mlp_downsample", "downsample_order": "diagonal"}},
            ConfigError,
            "diagonal",
        ),
        ({"mm_projector": {"mm_projector_type": "linear", "hidden_size": 7}}, ConfigError, "7"),
        ({"tokenizer": None}, ConfigError, "tokenizer"),
        ({"tokenizer": "/no/such/folder"}, CheckpointError, "/no/such/folder"),
        ({"template": "no_such"}, UnknownComponentError, "no_such"),
    ],
)
def test_what_does_not_fit_is_told(words: Path, options: Any, error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        built(words, **options)


def test_a_config_keeps_what_it_does_not_know() -> None:
    config = NavilaConfig(num_video_frames=4, of_tomorrow=[1, 2], max_length=20, torch_dtype="float16")
    written = config.to_diff_dict()
    assert written["of_tomorrow"] == [1, 2]
    assert written["max_length"] == 20
    assert written["torch_dtype"] == "float16"
    assert "_as_read" not in written
    config.num_video_frames = 9
    assert config.to_diff_dict()["num_video_frames"] == 9


def test_a_name_that_nobody_registered_brings_close_ones(words: Path) -> None:
    with pytest.raises(UnknownComponentError, match=r"did you mean.*siglip"):
        built(words, vision_tower="siglip-so400m-38")


def test_a_whole_checkpoint_given_as_a_part_says_where_the_part_is(words: Path, tmp_path: Path) -> None:
    built(words).save_pretrained(tmp_path / "whole")
    for name, folder in (("llm", "llm"), ("vision_tower", "vision_tower")):
        with pytest.raises(ConfigError, match=rf"whole checkpoint.*whole/{folder}"):
            built(words, **{name: tmp_path / "whole"})


def test_pixels_of_8_bits_are_normalised_by_the_model(words: Path) -> None:
    model = built(words).eval()
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    normalised = torch.from_numpy(model.image_processor.normalise(pixels.numpy()))
    given = model.encode_images(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(given, model.encode_images(normalised), atol=1e-5, rtol=1e-5)


def test_it_is_there_once_navila_is_imported() -> None:
    program = "import navila, sys; assert 'torch' not in sys.modules; print(navila.model.build.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "build\n"

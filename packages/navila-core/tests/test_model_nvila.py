"""NVILA checkpoints: their prompts, token order, videos and tiles give the logits of parts put together by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import navila
import pytest
import torch
from navila.errors import CheckpointError, DataError
from navila.model.location import read_root
from navila.model.media import MediaReader
from navila.model.tiling import closest_grid, cut, dynamic_tiles, scale_tiles
from navila.tokenization import tokenize_supervised
from navila.video import Video
from navila_encoder_siglip.encoder import SiglipEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SIDE, GRID, WIDTH, DIM = 48, 6, 32, 64
"""Pixels of a tile, patches on its side, channels of the encoder and of the language model."""
SCALES = (48, 96, 144)
MEDIA = {
    "image_encoder": '{"_target_": "llava.model.encoders.BasicImageEncoder"}',
    "video_encoder": '{"_target_": "llava.model.encoders.BasicVideoEncoder"}',
}
QUESTION = "Where is the sofa?"


def projector_state(kind: str, scales: int) -> dict[str, Tensor]:
    """Random weights under VILA's names."""
    side = 3 if "3x3" in kind else 2
    merged = side * side * WIDTH * scales
    widths = [merged, 3 * WIDTH * scales] if side == 3 else [merged]
    state: dict[str, Tensor] = {}
    for number, (width, following) in enumerate(zip(widths, [*widths[1:], DIM], strict=True)):
        state[f"layers.{3 * number + 1}.weight"] = 1 + 0.1 * torch.randn(width)
        state[f"layers.{3 * number + 1}.bias"] = 0.1 * torch.randn(width)
        state[f"layers.{3 * number + 2}.weight"] = torch.randn(following, width) / math.sqrt(width)
        state[f"layers.{3 * number + 2}.bias"] = 0.1 * torch.randn(following)
    last = 3 * len(widths) + 1
    state[f"layers.{last}.weight"] = torch.randn(DIM, DIM) / math.sqrt(DIM)
    state[f"layers.{last}.bias"] = 0.1 * torch.randn(DIM)
    return state


def write_checkpoint(folder: Path, goldens: Path, kind: str = "mlp_downsample", **fields: Any) -> Path:
    """A checkpoint with the files and keys of `Efficient-Large-Model/NVILA-*`."""
    torch.manual_seed(0)
    scales = len(SCALES) if fields.get("dynamic_s2") else 1
    config = Qwen2Config(
        vocab_size=1824,
        hidden_size=DIM,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / "llm")
    for file in (goldens / "tokenizers" / "chatml_like").iterdir():
        shutil.copyfile(file, folder / "llm" / file.name)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    tower = {
        "model_type": "siglip_vision_model",
        **sizes,
        "image_size": SIDE,
        "patch_size": 8,
        "vision_use_head": False,
    }
    SiglipEncoder(tower).save_pretrained(folder / "vision_tower")
    (folder / "mm_projector").mkdir()
    save_file(projector_state(kind, scales), folder / "mm_projector" / "model.safetensors", metadata={"format": "pt"})
    joint = {"architectures": ["MultimodalProjector"], "mm_projector_type": kind, "model_type": "v2l_projector"}
    (folder / "mm_projector" / "config.json").write_text(json.dumps(joint))
    top = {
        "_attn_implementation_autoset": True,
        "_name_or_path": "/home/someone/mpt-intern-yi/NVILA",
        "architectures": ["LlavaLlamaModel"],
        "chat_template": "qwen2",
        "drop_path_rate": 0.0,
        "dynamic_s2": False,
        "fps": 0.0,
        "hidden_size": DIM,
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "llm_cfg": config.to_dict(),
        "max_tiles": 12,
        "min_tiles": 1,
        "mm_hidden_size": WIDTH * scales,
        "mm_projector_cfg": joint,
        "mm_projector_lr": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "model_dtype": "torch.float16",
        "model_type": "llava_llama",
        "num_time_tokens": 0,
        "num_video_frames": 4,
        "resume_path": None,
        "s2": False,
        "s2_max_split_size": 48,
        "s2_resize_output_to_scale_idx": 0,
        "s2_scales": "48,96,144",
        "soft_ce_std": 1.0,
        "time_token_format": "<t{t}>",
        "vision_resolution": -1,
        "vision_tower_cfg": tower,
        **MEDIA,
        **fields,
    }
    (folder / "config.json").write_text(json.dumps(top))
    return folder


def loaded(folder: Path, **options: Any) -> Any:
    return navila.load(folder, **{"device": "cpu", "dtype": "float32", **options})


class Reference:
    """The parts by hand: transformers' language model, our encoder, and plain tensor operations."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.llm = Qwen2ForCausalLM.from_pretrained(folder / "llm").eval()
        self.encoder = SiglipEncoder.from_pretrained(folder / "vision_tower").eval()
        self.state = load_file(folder / "mm_projector" / "model.safetensors")
        self.side = 3 if "3x3" in kind else 2
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "llm")
        self.tokenizer.add_tokens(["<vila/sentinel>", "<image>", "<vila/video>"], special_tokens=True)

    def pixels(self, images: list[Image.Image]) -> Tensor:
        sized = [image.resize((SIDE, image.height), 3).resize((SIDE, SIDE), 3) for image in images]
        rows = [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3) for image in sized]
        return torch.stack([(row.permute(2, 0, 1) / 255 - 0.5) / 0.5 for row in rows])

    def project(self, features: Tensor) -> Tensor:
        """(N, P, C) to (N, T, D), a token for each square of patches, row by row."""
        length = math.isqrt(features.shape[1])
        grid = features.view(len(features), length, length, -1)
        side, tokens = self.side, []
        for row in range(0, length, side):
            for column in range(0, length, side):
                square = grid[:, row : row + side, column : column + side]
                tokens.append(square.reshape(len(features), -1))
        x = torch.stack(tokens, dim=1)
        last = max(int(name.split(".")[1]) for name in self.state)
        for number in range(1, last, 3):
            x = F.layer_norm(x, x.shape[-1:], self.weight(number), self.bias(number))
            x = F.gelu(F.linear(x, self.weight(number + 1), self.bias(number + 1)))
        return F.linear(x, self.weight(last), self.bias(last))

    def weight(self, number: int) -> Tensor:
        return self.state[f"layers.{number}.weight"]

    def bias(self, number: int) -> Tensor:
        return self.state[f"layers.{number}.bias"]

    def embed(self, text: str) -> Tensor:
        ids = self.tokenizer(text).input_ids
        return self.llm.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def logits(self, message: str, media: list[Tensor]) -> Tensor:
        """Of a message whose `<image>` and `<vila/video>` are these embeddings, in the template qwen2 of VILA."""
        prompt = (
            "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
            f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
        )
        marks = {self.tokenizer.convert_tokens_to_ids(token) for token in ("<image>", "<vila/video>")}
        table, queue = self.llm.get_input_embeddings(), list(media)
        pieces = [queue.pop(0) if i in marks else table(torch.tensor([i])) for i in self.tokenizer(prompt).input_ids]
        assert not queue
        with torch.no_grad():
            return self.llm(inputs_embeds=torch.cat(pieces)[None]).logits

    @torch.no_grad()
    def image(self, image: Image.Image, repeat: int = 1) -> Tensor:
        """An image and the newline behind it."""
        features = self.encoder(self.pixels([image])).repeat(1, 1, repeat)
        return torch.cat([self.project(features)[0], self.embed("\n")])


def logits_of(model: Any, parts: list[Any], **options: Any) -> Tensor:
    inputs = model.inputs_of([MediaReader(model, **options).turns(parts)])
    with torch.no_grad():
        return model(**inputs).logits


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((60 + 8 * i, 40), 60 + 20 * i).convert("RGB") for i in range(3)]


@pytest.mark.parametrize("kind", ["mlp_downsample", "mlp_downsample_3x3_fix", "mlp_downsample_2x2_fix"])
def test_an_image_gives_the_logits_of_parts_put_together(
    goldens: Path, tmp_path: Path, pictures: list[Image.Image], kind: str
) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, kind)
    model, reference = loaded(folder), Reference(folder, kind)
    assert model.template.name == "qwen_2"
    same(
        logits_of(model, [pictures[0], QUESTION]),
        reference.logits(f"<image>{QUESTION}", [reference.image(pictures[0])]),
    )


@pytest.mark.parametrize("aspect", ["resize", "dynamic"])
def test_several_images_are_shown_whole(
    goldens: Path, tmp_path: Path, pictures: list[Image.Image], aspect: str
) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, image_aspect_ratio=aspect)
    model, reference = loaded(folder), Reference(folder, "mlp_downsample")
    message = f"First:<image>and then<image><image>{QUESTION}"
    ours = logits_of(model, ["First:", pictures[0], "and then", *pictures[1:], QUESTION])
    same(ours, reference.logits(message, [reference.image(picture) for picture in pictures]))


def folder_of_frames(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        Image.effect_noise((50, 50), 30 + 9 * number).convert("RGB").save(folder / f"{number:02d}.png")
    return folder


def test_a_video_is_its_frames_each_with_a_newline(goldens: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, image_aspect_ratio="dynamic")
    model, reference = loaded(folder), Reference(folder, "mlp_downsample")
    video = folder_of_frames(tmp_path / "frames", 7)
    frames = [Image.open(video / f"{number:02d}.png") for number in (0, 2, 4, 6)]
    whole = torch.cat([reference.image(frame) for frame in frames])
    same(logits_of(model, [Video(video), QUESTION]), reference.logits(f"<vila/video>{QUESTION}", [whole]))


def test_frames_are_pooled_in_every_pass(goldens: Path, tmp_path: Path) -> None:
    tsp = {"_target_": "llava.model.encoders.TSPVideoEncoder", "pool_sizes": [[2, 1, 1], [4, 1, 1]]}
    folder = write_checkpoint(tmp_path / "c", goldens, video_encoder=tsp)
    model, reference = loaded(folder), Reference(folder, "mlp_downsample")
    video = folder_of_frames(tmp_path / "frames", 4)
    frames = [Image.open(file) for file in sorted(video.iterdir())]
    with torch.no_grad():
        features = reference.project(reference.encoder(reference.pixels(frames)))
    newline = reference.embed("\n")
    pooled = [features[:2].mean(0), features[2:].mean(0), features.mean(0)]
    whole = torch.cat([torch.cat([one, newline]) for one in pooled])
    same(logits_of(model, [video, QUESTION]), reference.logits(f"<vila/video>{QUESTION}", [whole]))
    with pytest.raises(DataError, match=r"3 frames cannot be pooled by 2"):
        logits_of(model, [video, QUESTION], num_video_frames=3)


def test_the_only_image_of_a_message_is_tiled(goldens: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, image_aspect_ratio="dynamic", max_tiles=2)
    model, reference = loaded(folder), Reference(folder, "mlp_downsample")
    picture = Image.effect_noise((200, 100), 90).convert("RGB")
    resized = picture.resize((96, 100), 3).resize((96, 48), 3)
    media = [reference.image(tile) for tile in (resized.crop((0, 0, 48, 48)), resized.crop((48, 0, 96, 48)), picture)]
    same(logits_of(model, [picture, QUESTION]), reference.logits("<image>\n" * 3 + QUESTION, media))
    # A video beside it changes nothing of that.
    video = folder_of_frames(tmp_path / "frames", 4)
    frames = torch.cat([reference.image(Image.open(file)) for file in sorted(video.iterdir())])
    same(logits_of(model, [picture, video]), reference.logits("<image>\n" * 3 + "<vila/video>", [*media, frames]))


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((48, 48), (1, 1)),
        # Of one shape, the largest that the image fills by more than half.
        ((96, 96), (2, 2)),
        ((150, 150), (3, 3)),
        ((60, 30), (2, 1)),
        ((200, 100), (4, 2)),
        ((30, 90), (1, 3)),
        # No grid is as wide as this: the widest.
        ((4000, 40), (12, 1)),
    ],
)
def test_the_grid_has_the_shape_of_the_image(size: tuple[int, int], grid: tuple[int, int]) -> None:
    assert closest_grid(*size, min_tiles=1, max_tiles=12, side=SIDE) == grid


def test_at_least_the_fewest_tiles_are_taken() -> None:
    columns, rows = closest_grid(10, 10, min_tiles=9, max_tiles=12, side=SIDE)
    assert (columns, rows) == (3, 3)


def test_tiles_put_together_are_the_image_row_by_row() -> None:
    picture = Image.effect_noise((96, 144), 90).convert("RGB")
    tiles = cut(picture, (2, 3), SIDE)
    together = Image.new("RGB", picture.size)
    for number, tile in enumerate(tiles):
        together.paste(tile, (number % 2 * SIDE, number // 2 * SIDE))
    assert together.tobytes() == picture.tobytes()
    assert len(dynamic_tiles(picture, min_tiles=1, max_tiles=12, side=SIDE)) == 7
    assert len(dynamic_tiles(picture, min_tiles=1, max_tiles=1, side=SIDE)) == 1
    tiles, grids = scale_tiles(picture, SCALES, max_tiles=12, side=SIDE)
    assert grids == [(1, 1), (2, 2), (3, 4)]
    assert len(tiles) == 1 + 4 + 12


@pytest.mark.parametrize("output", [-1, 0, 1])
def test_scales_of_a_tiled_image_are_joined_by_channel(goldens: Path, tmp_path: Path, output: int) -> None:
    fields = {"image_aspect_ratio": "dynamic_s2", "dynamic_s2": True, "s2_resize_output_to_scale_idx": output}
    kind = "mlp_downsample_3x3_fix"
    folder = write_checkpoint(tmp_path / "c", goldens, kind, **fields)
    model, reference = loaded(folder), Reference(folder, kind)
    picture = Image.effect_noise((400, 300), 90).convert("RGB")

    def whole(columns: int, rows: int) -> Tensor:
        """(1, C, H, W) features of the image in a grid of tiles."""
        resized = picture.resize((columns * SIDE, 300), 3).resize((columns * SIDE, rows * SIDE), 3)
        lines = []
        for row in range(rows):
            boxes = [(c * SIDE, row * SIDE, (c + 1) * SIDE, (row + 1) * SIDE) for c in range(columns)]
            tiles = [reference.encoder(reference.pixels([resized.crop(box)])) for box in boxes]
            lines.append(torch.cat([tile.view(1, GRID, GRID, WIDTH) for tile in tiles], dim=2))
        return torch.cat(lines, dim=1).permute(0, 3, 1, 2)

    with torch.no_grad():
        scales = [whole(1, 1), whole(2, 2), whole(4, 3)]
        size = scales[output].shape[-2:]
        joined = torch.cat([F.interpolate(scale, size=size, mode="area") for scale in scales], dim=1)
        # Squares of 3x3 patches never cross a tile's edge, so the whole can be projected at once: line by line.
        squares = joined.unfold(2, 3, 3).unfold(3, 3, 3).permute(0, 2, 3, 4, 5, 1).flatten(1, 2)
        tokens = torch.cat([reference.project(square.flatten(1, 2)) for square in squares[0][:, None]], dim=1)[0]
    expected = reference.logits(f"<image>{QUESTION}", [torch.cat([tokens, reference.embed("\n")])])
    same(logits_of(model, [picture, QUESTION]), expected)
    # Two images are not tiled: each looks alike at every scale.
    both = logits_of(model, [picture, picture, QUESTION])
    same(both, reference.logits(f"<image><image>{QUESTION}", [reference.image(picture, repeat=3)] * 2))


def test_saved_and_loaded_it_is_the_same(goldens: Path, tmp_path: Path, pictures: list[Image.Image]) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, image_aspect_ratio="dynamic_s2", dynamic_s2=True)
    model = loaded(folder)
    model.save_pretrained(tmp_path / "again")
    again = loaded(tmp_path / "again")
    assert torch.equal(logits_of(again, [pictures[0], QUESTION]), logits_of(model, [pictures[0], QUESTION]))
    top = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {key: top[key] for key in MEDIA} == MEDIA
    assert json.loads((tmp_path / "again/mm_projector/config.json").read_text())["downsample_order"] == "row"


TSP = {"_target_": "llava.model.encoders.TSPVideoEncoder"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_encoder": {"_target_": "os.system"}}, "image_encoder _target_ 'os.system'"),
        ({"image_encoder": "{"}, "image_encoder '{'"),
        ({"image_encoder": {"_target_": "llava.model.encoders.BasicImageEncoder", "gain": 2}}, "image_encoder gain 2"),
        ({"video_encoder": TSP}, "video_encoder pool_sizes None"),
        ({"video_encoder": {**TSP, "pool_sizes": [[8, 2, 2]]}}, r"video_encoder pool_sizes \[\[8, 2, 2\]\]"),
        ({"video_encoder": {**TSP, "pool_sizes": [[8, 1, 1]], "sep_tokens": "|"}}, r"video_encoder sep_tokens '\|'"),
        ({"dynamic_s2": True, "s2_scales": "48,100"}, "s2_scales '48,100'"),
        ({"dynamic_s2": True, "max_tiles": 4}, "max_tiles 4"),
        ({"dynamic_s2": True, "s2_resize_output_to_scale_idx": 3}, "s2_resize_output_to_scale_idx 3"),
        ({"min_tiles": 13}, "min_tiles 13"),
        ({"max_tiles": "many"}, "max_tiles 'many'"),
        ({"ps3": True}, "ps3 true"),
    ],
)
def test_what_is_not_known_is_named_by_its_key(
    goldens: Path, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, **fields)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_root(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_text_cannot_bring_in_an_image(goldens: Path, tmp_path: Path) -> None:
    model = loaded(write_checkpoint(tmp_path / "c", goldens))
    turns = MediaReader(model).turns("an <image>, a <vila/video> and <|im_end|>")
    ids = model.turns_ids(turns)
    vocabulary = model.tokenizer.get_vocab()
    assert not {-200, vocabulary["<image>"], vocabulary["<vila/video>"]} & set(ids)
    assert ids.count(vocabulary["<|im_end|>"]) == 2


def test_a_checkpoint_before_nvila_has_its_tokens_column_by_column(goldens: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "c", goldens, image_encoder=None, video_encoder=None, chat_template=None)
    model = loaded(folder)
    assert model.nvila is None
    assert model.mm_projector.config["downsample_order"] == "column"
    assert "<image>" not in model.tokenizer.get_vocab()


def test_it_learns_answers_in_prompts_that_are_tokenised_at_once(goldens: Path, tmp_path: Path) -> None:
    model = loaded(write_checkpoint(tmp_path / "c", goldens))
    spans = model.template.spans([("user", f"<image>{QUESTION}"), ("assistant", "Here.")])
    ids, labels = tokenize_supervised(spans, model.tokenizer, model.image_ids)
    whole = model.tokenizer("".join(span.text for span in spans)).input_ids
    at = whole.index(model.tokenizer.get_vocab()["<image>"])
    assert ids == [*whole[:at], -200, *model.tokenizer("\n").input_ids, *whole[at + 1 :]]
    assert model.tokenizer.decode([label for label in labels if label != -100]) == "Here.<|im_end|>"

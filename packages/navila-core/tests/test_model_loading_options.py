"""Loading in 8 and 4 bits, over several devices and from disk; what cannot be is refused before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import navila
import numpy as np
import pytest
import torch
from navila.errors import CheckpointError, ConfigError, MissingDependencyError, NavilaError
from navila.model import build
from navila.model.load import check_loading
from navila.model.placement import by_memory, divided, execution_device, from_map
from navila.model.quantization import quantised_layers
from torch import Tensor

LINEAR_LAYERS = 7 * 3
#: Relative error of the logits of a random model, in the Frobenius norm: about twice what was measured.
LARGEST_ERROR = {"int8": 0.02, "int8-dynamic": 0.03, "int4": 0.25, "bnb-int8": 0.03, "bnb-nf4": 0.3, "bnb-fp4": 0.4}
NAMES = sorted(LARGEST_ERROR)


@pytest.fixture(scope="module")
def checkpoint(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose layers are wide enough for every scheme."""
    return make(goldens, tmp_path_factory.mktemp("model") / "checkpoint")


def make(goldens: Path, folder: Path, **llm: Any) -> Path:
    source = goldens / "H_full_model" / "llama_siglip" / "ckpt"
    config = {k: v for k, v in json.loads((source / "llm" / "config.json").read_text()).items() if k != "vocab_size"}
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = build(
        {**config, **sizes, "num_key_value_heads": 2, "head_dim": 32, **llm},
        json.loads((source / "vision_tower" / "config.json").read_text()),
        "mlp_downsample",
        source / "llm",
        template="llama_3",
    )
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path, **options: Any) -> Any:
    where = {} if {"device_map", "max_memory"} & options.keys() else {"device": "cpu"}
    return navila.load(folder, **{"dtype": "float32", **where, **options})


def inputs(model: Any) -> dict[str, Tensor]:
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    prompt = model.template.render([("user", "<image>\nWhere is the <image>\n table?"), ("assistant", None)])
    return model.prepare(prompt, [image, image[:, ::-1].copy()])


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(**inputs(model)).logits


def error(model: Any, exact: Any) -> float:
    expected = logits(exact)
    return float((logits(model).float() - expected).norm() / expected.norm())


def stored_bytes(parameter: Tensor) -> int:
    """What a parameter takes, whatever kind of tensor it is."""
    if hasattr(parameter, "__tensor_flatten__"):
        return sum(stored_bytes(getattr(parameter, name)) for name in parameter.__tensor_flatten__()[0])  # type: ignore[attr-defined]
    return parameter.numel() * parameter.element_size()


def bytes_of_layers(model: Any) -> int:
    return sum(stored_bytes(p) for name, p in model.llm.named_parameters() if "_proj" in name)


# -- quantisation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_model_computes_nearly_the_same_in_less_memory(checkpoint: Path, name: str) -> None:
    exact, model = loaded(checkpoint), loaded(checkpoint, quantization=name)
    assert len(quantised_layers(model.llm)) == LINEAR_LAYERS
    # Before anything is computed: bitsandbytes packs its weights anew then.
    share = bytes_of_layers(model) / bytes_of_layers(exact)
    assert share < (0.27 if "8" in name else 0.20)
    assert 0 < error(model, exact) < LARGEST_ERROR[name]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_linear_layers_of_the_language_model_are_quantised(checkpoint: Path, name: str) -> None:
    model = loaded(checkpoint, quantization=name)
    assert all("_proj" in layer for layer in quantised_layers(model.llm))
    rest = [model.llm.lm_head.weight, model.llm.get_input_embeddings().weight]
    rest += [*model.vision_tower.parameters(), *model.mm_projector.parameters()]
    assert {(type(p), p.dtype) for p in rest} == {(torch.nn.Parameter, torch.float32)}
    assert model.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_a_quantised_model_answers_and_navigates(checkpoint: Path, name: str) -> None:
    model = loaded(checkpoint, quantization=name, dtype="bfloat16")
    ids = model.generate(**inputs(model), max_new_tokens=4)
    assert ids.shape[0] == 1
    assert 1 <= ids.shape[1] <= 4
    navigator = navila.Navigator(model, num_frames=2, decoding="grammar")
    navigator.reset("Walk to the table.")
    assert navigator.act(np.zeros((40, 60, 3), dtype=np.uint8)).status == "ok"


def test_a_config_of_transformers_is_taken_as_it_is(checkpoint: Path) -> None:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    own = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head", "model.layers.0"])
    layers = quantised_layers(loaded(checkpoint, quantization=own).llm)
    assert len(layers) == LINEAR_LAYERS - 7
    assert not any(name.startswith("model.layers.0.") for name in layers)


@pytest.mark.parametrize("name", ["int8", "int8-dynamic", "bnb-int8"])
def test_a_model_of_8_bits_is_saved_and_loaded_as_such(checkpoint: Path, tmp_path: Path, name: str) -> None:
    model = loaded(checkpoint, quantization=name)
    before = logits(model)
    model.save_pretrained(tmp_path / "quantised")
    again = loaded(tmp_path / "quantised")
    assert torch.equal(logits(again), before)
    assert len(quantised_layers(again.llm)) == LINEAR_LAYERS
    with pytest.raises(ConfigError, match="quantised already"):
        loaded(tmp_path / "quantised", quantization="int8")


def test_4_bits_of_bitsandbytes_are_saved_before_the_first_answer_and_refused_after_it(
    checkpoint: Path, tmp_path: Path
) -> None:
    model = loaded(checkpoint, quantization="bnb-nf4")
    model.save_pretrained(tmp_path / "quantised")
    before = logits(model)
    assert torch.equal(logits(loaded(tmp_path / "quantised")), before)
    weight = model.llm.model.layers[0].mlp.up_proj.weight
    if not getattr(weight.quant_state, "packing_format_for_cpu", False):
        pytest.skip("this CPU has no kernel for which weights are packed")
    with pytest.raises(ConfigError, match="right after it is loaded"):
        model.save_pretrained(tmp_path / "late")
    assert not (tmp_path / "late" / "config.json").exists()
    assert torch.equal(logits(model), before)


def test_int4_of_a_cpu_is_not_saved(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file can hold"):
        loaded(checkpoint, quantization="int4").save_pretrained(tmp_path / "quantised")


def test_layers_that_do_not_fit_a_scheme_are_named(goldens: Path, tmp_path: Path) -> None:
    folder = make(goldens, tmp_path / "odd", intermediate_size=200)
    with pytest.raises(ConfigError, match=r"blocks of 32 by 32.*mlp\.down_proj\.weight.*128 by 200: use int8"):
        loaded(folder, quantization="int4")
    assert quantised_layers(loaded(folder, quantization="int8").llm)


def test_a_mixture_of_experts_is_not_half_quantised(goldens: Path) -> None:
    with pytest.raises(ConfigError, match="mixture of experts"):
        loaded(goldens / "H_full_model" / "mixtral_siglip" / "ckpt", quantization="int8")


def test_a_missing_package_is_one_sentence(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torchao" else found(name, *a))
    with pytest.raises(MissingDependencyError, match=r"needs torchao.*pip install 'navila-core\[quant\]'"):
        loaded(checkpoint, quantization="int8")


# -- several devices --------------------------------------------------------------------------------------------------

ON_CPU = {"vision_tower": "cpu", "mm_projector": "cpu"}


@pytest.mark.parametrize(
    "device_map",
    [
        {"": "cpu"},
        {**ON_CPU, "llm": "cpu"},
        {**ON_CPU, "llm": "disk"},
        {"": "cpu", "llm.model.embed_tokens": "disk"},
        {"": "cpu", "llm.model.layers.1": "disk", "llm.model.layers.2.mlp": "disk", "llm.lm_head": "disk"},
        "auto",
    ],
    ids=str,
)
def test_a_model_spread_over_cpu_and_disk_computes_the_same(checkpoint: Path, device_map: Any) -> None:
    exact, model = loaded(checkpoint), loaded(checkpoint, device_map=device_map)
    assert torch.equal(logits(model), logits(exact))
    assert model.device == torch.device("cpu")
    assert torch.equal(
        model.generate(**inputs(model), max_new_tokens=3), exact.generate(**inputs(exact), max_new_tokens=3)
    )
    on_disk = {name for name, p in model.named_parameters() if p.device.type == "meta"}
    wanted = [name for name, device in device_map.items() if device == "disk"] if isinstance(device_map, dict) else []
    assert on_disk == {name for name, _ in exact.named_parameters() if any(name.startswith(w + ".") for w in wanted)}


def test_what_exceeds_a_memory_limit_lies_on_disk(checkpoint: Path) -> None:
    exact = loaded(checkpoint)
    sides = sum(p.nbytes for part in (exact.vision_tower, exact.mm_projector) for p in part.parameters())
    most = sum(p.nbytes for p in exact.llm.parameters()) * 9 // 10
    model = loaded(checkpoint, max_memory={"cpu": sides + most})
    in_memory = sum(p.nbytes for p in model.parameters() if p.device.type != "meta")
    assert sides < in_memory <= sides + most
    assert torch.equal(logits(model), logits(exact))
    navigator = navila.Navigator(model, num_frames=2)
    navigator.reset("Walk to the table.")
    navigator.act(np.zeros((40, 60, 3), dtype=np.uint8))


def test_a_model_with_weights_on_disk_is_saved_whole(checkpoint: Path, tmp_path: Path) -> None:
    loaded(checkpoint, device_map={"": "cpu", "llm.model.layers.1": "disk"}).save_pretrained(tmp_path / "again")
    assert torch.equal(logits(loaded(tmp_path / "again")), logits(loaded(checkpoint)))


def test_a_quantised_model_takes_a_device_map(checkpoint: Path) -> None:
    model = loaded(checkpoint, quantization="int8", device_map="auto", max_memory={"cpu": "1GiB"})
    assert len(quantised_layers(model.llm)) == LINEAR_LAYERS
    with pytest.raises(ConfigError, match="not kept on disk"):
        loaded(checkpoint, quantization="int8", device_map={"": "cpu", "llm.model.layers.1": "disk"})


def test_features_go_from_the_encoder_to_the_projector_and_ids_to_the_embeddings(checkpoint: Path) -> None:
    """`meta` stands for a second device: what is on it has a shape and a device, and mixing it with the CPU fails."""
    model = loaded(checkpoint)
    side = model.vision_tower.input_size
    for part in (model.llm, model.mm_projector):
        part.to("meta")
    assert model.device == torch.device("meta")
    features = model.encode_images(torch.zeros(1, 3, side, side))
    assert model.vision_tower.device == torch.device("cpu")
    assert features.device == torch.device("meta")
    assert features.shape == (1, model.tokens_per_image, model.llm.config.hidden_size)
    prepared = inputs(model)
    assert prepared["input_ids"].device == torch.device("meta")
    assert prepared["pixel_values"].device == torch.device("cpu")


def test_the_vision_side_takes_its_memory_before_the_language_model() -> None:
    placement = by_memory("auto", {"cpu": "1MB", "disk": "1GB"}, 600_000)
    assert placement.vision_tower == torch.device("cpu")
    assert placement.max_memory == {"cpu": 400_000, "disk": 10**9}
    with pytest.raises(ConfigError, match="never divided"):
        by_memory("auto", {"cpu": "1MB"}, 1_000_001)


def test_a_map_is_divided_where_names_lie_inside_one_another() -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.ModuleDict({"x": torch.nn.Linear(1, 1), "y": torch.nn.Linear(1, 1)})})
    net["b"] = torch.nn.Linear(1, 1)
    assert divided({"": "cpu", "a.x": "disk"}, net) == {"a.x": "disk", "a.y": "cpu", "b": "cpu"}
    assert divided({"a": 0, "b": "cpu"}, net) == {"a": 0, "b": "cpu"}
    with pytest.raises(ConfigError, match=r"no device for 'llm\.b'"):
        divided({"a": "cpu"}, net)


def test_a_module_with_a_hook_computes_where_the_hook_brings_its_weights(checkpoint: Path) -> None:
    model = loaded(checkpoint, device_map={"": "cpu", "llm.model.embed_tokens": "disk"})
    table = model.get_input_embeddings()
    assert table.weight.device.type == "meta"
    assert execution_device(table) == torch.device("cpu")
    assert {tensor.device.type for tensor in inputs(model).values()} == {"cpu"}


def test_a_name_inside_an_undivided_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="vision_tower is never divided"):
        from_map({"": "cpu", "vision_tower.vision_tower": "cpu"})


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantization": "int3"}, "no quantization 'int3'"),
        ({"quantization": 8}, "quantization is a int"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"device": "cuda:99"}, "'cuda:99' cannot be used"),
        ({"device": "meta"}, "'meta' cannot be used"),
        ({"device_map": "everywhere"}, "device_map is 'everywhere'"),
        ({"device_map": {}}, "no device for llm"),
        ({"device_map": {"llm": "cpu"}}, "no device for vision_tower"),
        ({"device_map": {"": "cpu", "head": "cpu"}}, "of no part"),
        ({"device_map": {"": "disk"}}, "vision_tower on disk"),
        ({"device_map": {"": 99}}, "device 99"),
        ({"device_map": {"": "cpu"}, "max_memory": {"cpu": "1GB"}}, "device_map is a mapping"),
        ({"device_map": "auto", "device": "cpu"}, "give one of them"),
        ({"max_memory": {"cpu": "much"}}, "write it as 10GiB"),
        ({"max_memory": {99: "1GB"}}, "device 99"),
        ({"devices": []}, "devices is empty"),
        ({"devices": [99]}, "device 99"),
        ({"devices": [0], "max_memory": {"cpu": "1GB"}}, "give one of them"),
        ({"attn_implementation": "none"}, "no attention 'none'"),
    ],
    ids=str,
)
def test_a_wrong_option_is_told_without_a_checkpoint(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        check_loading(**options)
    with pytest.raises(ConfigError, match=says):
        navila.load(tmp_path / "none", **options)


def test_a_module_that_is_not_there_is_told_before_weights_are_read(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "llm" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ConfigError, match=r"'llm\.model\.layer\.0', which the language model has not"):
        loaded(folder, device_map={"": "cpu", "llm.model.layer.0": "disk"})


def test_a_checkpoint_that_does_not_say_how_it_is_quantised_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((folder / "llm" / "config.json").read_text())
    (folder / "llm" / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    with pytest.raises(CheckpointError, match="quantization_config without quant_method"):
        loaded(folder)


# -- no gradients, and the command line -------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"device_map": {**ON_CPU, "llm": "disk"}}], ids=str)
def test_answering_records_no_gradients(checkpoint: Path, options: dict[str, Any]) -> None:
    model = loaded(checkpoint, **options)
    assert not any(module.training for module in model.modules())
    with torch.enable_grad():
        model.generate(**inputs(model), max_new_tokens=2)
        navigator = navila.Navigator(model, num_frames=2)
        navigator.reset("Walk to the table.")
        navigator.act(np.zeros((40, 60, 3), dtype=np.uint8))
    assert all(frame.features is None or not frame.features.requires_grad for frame in navigator._history)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_command_line_gives_what_load_takes() -> None:
    import click
    from click.testing import CliRunner
    from navila.cli.loading import LOADING, loading_options

    got: dict[str, Any] = {}

    @click.command()
    @loading_options
    def command(**loading: Any) -> None:
        got.update(loading)

    def given(*arguments: str) -> dict[str, Any]:
        got.clear()
        result = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        assert set(got) == set(LOADING)
        return {name: value for name, value in got.items() if value is not None}

    assert given() == {}
    assert given("--load-8bit") == {"quantization": "bnb-int8"}
    assert given("--load-4bit") == {"quantization": "bnb-nf4"}
    assert given("--quantization", "int4", "--dtype", "bfloat16") == {"quantization": "int4", "dtype": "bfloat16"}
    assert given("--device-map", "auto", "--max-memory", "0=10GiB, cpu=30GiB") == {
        "device_map": "auto",
        "max_memory": {0: "10GiB", "cpu": "30GiB"},
    }
    assert given("--device-map", '{"": 0, "llm.lm_head": "cpu"}') == {"device_map": {"": 0, "llm.lm_head": "cpu"}}
    for wrong in (("--load-8bit", "--load-4bit"), ("--max-memory", "10GiB"), ("--device-map", "{0: 1}")):
        with pytest.raises(NavilaError):
            given(*wrong)

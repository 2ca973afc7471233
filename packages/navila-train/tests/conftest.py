"""A recorded dataset and a recipe for a model that trains in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from navila_data.procedural import RecordSettings
from navila_data.recording import record

RECIPE = """
llm: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
      num_key_value_heads: 2, max_position_embeddings: 512}
vision_tower: {model_type: siglip_vision_model, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 3,
               num_attention_heads: 2, image_size: 32, patch_size: 16}
mm_projector: mlp_downsample
tokenizer: words
conversation: llama_3
num_video_frames: 4
model_max_length: 256
per_device_train_batch_size: 8
learning_rate: 3e-3
lr_scheduler_type: constant
logging_steps: 10
report_to: none
use_cpu: true
"""


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes, rendered and recorded."""
    folder = tmp_path_factory.mktemp("walks") / "data"
    record(RecordSettings(episodes=4, episodes_per_house=2, seed=5, image_size=32), folder)
    return folder


@pytest.fixture(scope="session")
def recipe(walks: Path) -> Path:
    """A recipe that trains a model of some ten thousand parameters on the walks."""
    path = walks.parent / "recipe.yaml"
    path.write_text(f"{RECIPE}\ndata_mixture: {json.dumps(f'vln:{walks}')}\n")
    return path

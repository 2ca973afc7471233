"""Numbers and strings the released checkpoints fix."""

from __future__ import annotations

#: Marks an image in prompt text.
IMAGE_TOKEN = "<image>"
#: Stands for an image in `input_ids`; never an id of the vocabulary.
IMAGE_TOKEN_INDEX = -200
#: Label of a position that carries no loss.
IGNORE_INDEX = -100

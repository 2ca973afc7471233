"""Numbers and strings the released checkpoints fix."""

from __future__ import annotations

#: Marks an image in prompt text.
IMAGE_TOKEN = "<image>"
#: Stand around an image in prompts of models with `mm_use_im_start_end`.
IMAGE_START_TOKEN, IMAGE_END_TOKEN = "<im_start>", "<im_end>"
#: Stands for an image in `input_ids`; never an id of the vocabulary.
IMAGE_TOKEN_INDEX = -200
#: Label of a position that carries no loss.
IGNORE_INDEX = -100

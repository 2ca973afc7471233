"""What `navila train` can be told beyond `transformers.TrainingArguments`. Light: read by `--help`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def option(default: object, text: str, *aliases: str) -> Any:
    """A dataclass field with its help text and other accepted flags."""
    return field(default=default, metadata={"help": text, "aliases": [f"--{alias}" for alias in aliases]})


@dataclass(kw_only=True)
class ModelArguments:
    """Parts of the model. A part is a registered name, a folder or Hub id with weights, or a config (a mapping in the
    recipe, JSON on the command line) for random weights."""

    model_name_or_path: str | None = option(
        None, "A whole checkpoint to go on from, or a language model (then give the other parts)."
    )
    llm: str | None = option(None, "The language model, when --model_name_or_path is not it.")
    vision_tower: str | None = option(None, "The vision encoder, e.g. siglip-so400m-384.")
    mm_projector: str | None = option(None, "The projector, e.g. mlp_downsample.", "mm_projector_type")
    tokenizer: str | None = option(
        None,
        "Folder or Hub id of the tokenizer; `words` builds one of the data's words. [default: the language model's]",
    )
    tokenizer_mixture: str | None = option(
        None, "Mixture whose texts `--tokenizer words` takes its words from. [default: --data_mixture]"
    )
    conversation: str | None = option(None, "Conversation template, e.g. llama_3.", "version")
    mm_vision_select_layer: int = option(-2, "Layer whose features the encoder gives.")
    mm_vision_select_feature: str = option("cls_patch", "Which of them: cls_patch (all) or patch.")
    mm_use_im_start_end: bool = option(False, "Put images between the tokens <im_start> and <im_end>.")
    num_time_tokens: int = option(0, "Add so many tokens for points in time; near misses among them cost less.")
    time_token_format: str = option("<t{t}>", "How they are written.")
    soft_ce_std: float = option(1.0, "How far off a near miss still counts, in tokens.")
    attn_implementation: str | None = option(None, "Attention of transformers, e.g. sdpa, flash_attention_2.")


@dataclass(kw_only=True)
class DataArguments:
    """What the model is trained on."""

    data_mixture: str | None = option(None, "Datasets, e.g. r2r+rxr*2+vln:FOLDER (NAME or FORMAT:FOLDER, *N repeats).")
    eval_data_mixture: str | None = option(
        None, "Data that are not trained on; --eval_strategy says when their loss is computed."
    )
    data_path: str | None = option(None, "Folder below which registered datasets lie.")
    num_video_frames: int = option(8, "Frames of a navigation step or a video.")
    fps: float = option(0.0, "Frames a second of videos, --num_video_frames at most; 0 spreads those over a video.")
    image_aspect_ratio: str = option("resize", "resize or pad.")
    normalise_instructions: bool = option(False, "Clean instructions up as NaVILA's training did.")
    history_dropout: float = option(0.0, "Chance that a navigation step loses its history frames.")
    rebalance_actions: str = option(
        "", "How often navigation steps are seen by action: stop=5,left=1.5, or auto (as often as the commonest, <= 5)."
    )
    augment: str = option(
        "", "Changes to samples, drawn each epoch: jitter, mirror, package.module:function; several with commas."
    )
    group_by_episode: int = option(
        0, "Keep chunks of so many steps of an episode in one batch, to encode shared frames once; 0 shuffles freely."
    )
    shuffle_window: int = option(
        0,
        "Read tar shards in turn, samples moved by less than so many places, for slow disks; 0 shuffles freely.",
    )
    share_prefix: bool = option(
        False, "Put samples with the same frames into one row, whose common beginning is computed once."
    )
    packing: bool = option(False, "Put samples one after the other into rows of --packing_tokens; a row is a batch.")
    packing_tokens: int | None = option(
        None, "Tokens of a packed row. [default: 16384 for 80 GB of GPU memory, in proportion]"
    )
    image_decoding: str = option(
        "exact", "exact, or fast: JPEGs are read several times as fast, some pixels in a thousand a level (1/255) off."
    )
    frame_cache_mb: int = option(1024, "Memory for decoded frames, MiB.")
    frame_cache_dir: str | None = option(
        None, "Folder on a disk of this machine to keep resized frames in, for later epochs and runs."
    )
    frame_cache_gb: float = option(100.0, "Most it may take, GiB.")
    show_order: int = option(
        0, "Print the samples of so many batches from where the training stands, as JSON lines, and train nothing."
    )
    on_bad_data: str = option("skip", "What to do about broken media and records: raise, skip or mask.")
    bad_data_bound: float = option(0.01, "Share of broken samples past which training stops.")


@dataclass(kw_only=True)
class TuningArguments:
    """What is trained, and how, beyond the Trainer's own arguments."""

    tune_language_model: bool | None = option(
        None, "Train the language model. [default: all parts, unless one is given]"
    )
    tune_vision_tower: bool | None = option(None, "Train the vision encoder.")
    tune_mm_projector: bool | None = option(None, "Train the projector.")
    mm_projector_lr: float | None = option(None, "Learning rate of the projector. [default: --learning_rate]")
    vision_tower_lr: float | None = option(None, "Learning rate of the vision encoder. [default: --learning_rate]")
    model_max_length: int | None = option(
        None,
        "Longest sequence in tokens, images expanded; where the language model has fewer positions, they are stretched "
        "(linear scaling of RoPE). [default: what the checkpoint was trained with, else 4096 or its positions]",
    )
    seq_parallel_size: int = option(
        1, "Processes that compute a row together, each a part of its tokens; -1 or 1 for each its own rows."
    )
    seq_parallel_ring_size: int = option(
        1, "How many of them form a ring; the rest is Ulysses, which divides attention heads. -1 or 1 for no ring."
    )
    seq_parallel_ring_type: str = option(
        "zigzag_ring_varlen", "Order of a row in the ring: zigzag_ring_varlen (equal work), or ring_varlen."
    )
    auto_resume: bool = option(True, "Go on from the newest complete checkpoint; false begins anew.")
    time_limit: str | None = option(
        None, "Save and end with code 75 in time before HH:MM:SS or D-HH:MM:SS are over. [default: a SLURM job's end]"
    )
    time_margin: float = option(0.0, "Seconds to stop before that; 0 learns from how long steps and checkpoints take.")
    max_bad_steps: int = option(
        3, "Steps in a row without a finite loss or gradient, each left out, after which training ends."
    )
    spike_factor: float = option(
        0.0, "Leave steps out, too, whose loss is over so many times the median of the last 64; 0 allows any."
    )
    hang_timeout: float = option(
        1200.0, "Seconds without progress after which training ends and names the processes it waits for; 0 never."
    )
    straggler_factor: float = option(
        2.0, "Name processes that keep the others waiting so many times the median; 0 names none."
    )
    engine: str = option(
        "auto", "How a model is trained by several processes: fsdp2 divides it; auto copies it, or as --deepspeed says."
    )
    fsdp_group_size: int = option(
        0, "Processes that share a copy of the model under --engine fsdp2, e.g. those of a machine; 0 for all."
    )
    callback: list[str] | None = option(  # noqa: RUF009 (None)
        None, "Registered callbacks to install, each NAME or NAME:KEY=VALUE,KEY=VALUE, e.g. benchmark:task=houses."
    )


@dataclass(kw_only=True)
class AdapterArguments:
    """Training an adapter (LoRA) on a frozen base, which may be quantised (QLoRA)."""

    lora_enable: bool = option(False, "Train an adapter; parts without one are trained where their --tune flag says.")
    lora_llm: bool = option(False, "Put it on the language model.")
    lora_vt: bool = option(False, "Put it on the vision encoder.")
    use_dora: bool = option(False, "Learn magnitudes of weights too (DoRA).")
    lora_r: int = option(64, "Rank.")
    lora_alpha: float = option(16.0, "Scale: an update is multiplied by --lora_alpha / --lora_r.")
    lora_dropout: float = option(0.05, "Dropout of the adapter's input.")
    lora_bias: str = option("none", "Biases to train: none, all, lora_only.")
    lora_target_modules: list[str] | None = option(  # noqa: RUF009 (None)
        None, "Names, or their ends, of linear layers that get it, e.g. q_proj v_proj. [default: all but the head]"
    )
    lora_modules_to_save: list[str] | None = option(  # noqa: RUF009 (None)
        None, "Modules below it to train whole, e.g. embed_tokens lm_head."
    )
    bits: int = option(16, "Load the language model in 4 or 8 bits, by bitsandbytes.")
    quant_type: str = option("nf4", "Type of 4 bits: nf4 or fp4.")
    double_quant: bool = option(True, "Quantise the scales of 4 bits too.")


@dataclass(kw_only=True)
class PlanArguments:
    """What a training will take, told instead of training."""

    plan: bool = option(False, "Tell memory of a GPU, the longest sample that fits and speed, and train nothing.")
    gpu: str = option("h100-80gb", "GPU to plan for: rtx4090, a100-40gb, h100-80gb, …, or a size like 24GB.")
    gpus: int = option(1, "How many there are, over all machines.")
    plan_mfu: float = option(0.4, "Share of the GPU's operations a second that is assumed to be used.")
    plan_json: str | None = option(None, "File to write the plan to, as JSON.")


#: Groups of `--help`, in order.
GROUPS = (
    ("Model", ModelArguments),
    ("Data", DataArguments),
    ("Tuning", TuningArguments),
    ("Adapters", AdapterArguments),
    ("Plan", PlanArguments),
)

#: The Trainer's flags most runs set, for `--help`; all others of `transformers.TrainingArguments` work too.
COMMON_TRAINER_FLAGS = (
    ("output_dir", "Folder of checkpoints, log and result. Else the folder of `navila run`, or trainer_output."),
    ("num_train_epochs", "Passes over the mixture. [default: 3]"),
    ("max_steps", "Optimizer steps, instead of epochs."),
    ("per_device_train_batch_size", "Samples a device and step. [default: 8]"),
    ("gradient_accumulation_steps", "Batches an optimizer step. [default: 1]"),
    ("learning_rate", "Peak learning rate. [default: 5e-5]"),
    ("lr_scheduler_type", "linear, cosine, constant, … [default: linear]"),
    ("warmup_steps", "Steps of warm-up; below 1 a share of all steps. [default: 0]"),
    ("weight_decay", "[default: 0]"),
    ("bf16", "Mixed precision."),
    ("save_steps", "Steps between checkpoints. [default: 500]"),
    ("save_total_limit", "Checkpoints to keep."),
    ("logging_steps", "Steps between log lines. [default: 500]"),
    ("eval_strategy", "When to evaluate: no, steps (every --eval_steps), epoch. [default: no]"),
    ("eval_steps", "Steps between evaluations; --logging_steps when not given."),
    ("load_best_model_at_end", "Keep the best checkpoint, by --metric_for_best_model, or by eval_loss."),
    ("seed", "[default: 42]"),
    ("dataloader_num_workers", "Processes that load data. [default: 0]"),
    ("resume_from_checkpoint", "Checkpoint to resume; by default the newest complete one; `none` begins anew."),
    ("deepspeed", "DeepSpeed: zero1, zero2, zero3, zero3-offload, … (recipes/deepspeed), or a configuration file."),
    ("use_cpu", "Train on the CPU. [default: where there is no GPU]"),
)

#: Flags of NaVILA's scripts, and of other commands, that have other names here.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "mm_projector_type": "mm_projector",
    "num_frames": "num_video_frames",
    "version": "conversation",
    # Below 1 it is a share of all steps.
    "warmup_ratio": "warmup_steps",
}
#: Flags of NaVILA's scripts that change nothing here; the value that may be given, or None for any.
WITHOUT_EFFECT = {
    "mm_use_im_patch_token": "False",
    "lazy_preprocess": None,
    "is_multimodal": None,
    # Batches are mixed over datasets.
    "longvila_sampler": "False",
    "vision_resolution": "-1",
    "model_dtype": None,
}

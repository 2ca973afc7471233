"""What first-party distributions offer, so that a missing name can end in the line to type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CatalogueEntry:
    """One first-party distribution and the components of one kind that it brings."""

    dist: str
    kind: str
    names: tuple[str, ...]
    """Component names and aliases."""
    model_types: tuple[str, ...] = ()
    """`model_type` values of `config.json` that it loads."""


#: Only what exists is listed; `tests/test_catalogue.py` holds it to what the plugins themselves say.
CATALOGUE: tuple[CatalogueEntry, ...] = (
    CatalogueEntry(dist="navila-llm-llama", kind="llm", names=("llama",), model_types=("llama",)),
    CatalogueEntry(dist="navila-llm-mistral", kind="llm", names=("mistral",), model_types=("mistral",)),
    CatalogueEntry(dist="navila-llm-qwen", kind="llm", names=("qwen2", "qwen3"), model_types=("qwen2", "qwen3")),
    CatalogueEntry(dist="navila-llm-qwen", kind="conversation", names=("qwen_2", "qwen_2_5", "qwen_3")),
    CatalogueEntry(
        dist="navila-llm-gemma",
        kind="llm",
        names=("gemma", "gemma2", "gemma3"),
        model_types=("gemma", "gemma2", "gemma3_text"),
    ),
    CatalogueEntry(dist="navila-llm-gemma", kind="conversation", names=("gemma",)),
    CatalogueEntry(dist="navila-llm-phi3", kind="llm", names=("phi3",), model_types=("phi3",)),
    CatalogueEntry(dist="navila-llm-phi3", kind="conversation", names=("phi_3", "phi_4_mini")),
    CatalogueEntry(dist="navila-llm-mixtral", kind="llm", names=("mixtral",), model_types=("mixtral",)),
    CatalogueEntry(
        dist="navila-encoder-siglip",
        kind="vision-encoder",
        names=(
            "siglip",
            "siglip-base-224",
            "siglip-base-384",
            "siglip-large-256",
            "siglip-large-384",
            "siglip-so400m-224",
            "siglip-so400m-384",
        ),
        model_types=("siglip_vision_model", "siglip", "siglip2_vision_model", "siglip2"),
    ),
    CatalogueEntry(
        dist="navila-encoder-clip",
        kind="vision-encoder",
        names=("clip", "clip-base-32", "clip-base-16", "clip-large-14", "clip-large-14-336"),
        model_types=("clip_vision_model", "clip"),
    ),
    CatalogueEntry(
        dist="navila-encoder-intern",
        kind="vision-encoder",
        names=("intern", "intern-300m-448", "intern-6b-224", "intern-6b-448"),
        model_types=("intern_vit_6b", "internvl_chat"),
    ),
    CatalogueEntry(dist="navila-encoder-timm", kind="vision-encoder", names=("timm",), model_types=("timm",)),
    CatalogueEntry(
        dist="navila-encoder-openclip", kind="vision-encoder", names=("openclip",), model_types=("open_clip",)
    ),
    CatalogueEntry(
        dist="navila-encoder-radio",
        kind="vision-encoder",
        names=(
            "radio",
            "radio-v2.5-b",
            "radio-v2.5-l",
            "radio-v2.5-h",
            "radio-v2.5-g",
            "c-radio-v3-b",
            "c-radio-v3-l",
            "c-radio-v3-h",
            "c-radio-v3-g",
            "c-radio-v4-so400m",
            "c-radio-v4-h",
        ),
        model_types=("radio",),
    ),
    CatalogueEntry(
        dist="navila-projector-mlp",
        kind="projector",
        names=(
            "linear",
            "identity",
            "mlp",
            "mlp2x_gelu",
            "mlp-downsample",
            "mlp_downsample",
            "mlp-downsample-2x2-fix",
            "mlp_downsample_2x2_fix",
            "mlp-downsample-3x3-fix",
            "mlp_downsample_3x3_fix",
            "mlp-downsample-3x3-s2",
            "mlp_downsample_3x3_s2",
            "mlp-downsample-3x3-s2-new",
            "mlp_downsample_3x3_s2_new",
        ),
        model_types=("v2l_projector",),
    ),
    CatalogueEntry(
        dist="navila-projector-resampler", kind="projector", names=("resampler",), model_types=("v2l_projector",)
    ),
    CatalogueEntry(dist="navila-dataset-llava", kind="dataset", names=("llava", "sharegpt4v_sft")),
    CatalogueEntry(
        dist="navila-dataset-video", kind="dataset", names=("video_chatgpt", "sharegpt_video", "scanqa", "video")
    ),
    CatalogueEntry(dist="navila-dataset-vln", kind="dataset", names=("r2r", "rxr", "human", "envdrop", "vln")),
    CatalogueEntry(
        dist="navila-dataset-webdataset", kind="dataset", names=("webdataset", "webdataset-chat", "vila-webdataset")
    ),
    CatalogueEntry(dist="navila-sim-graph", kind="simulator", names=("graph",)),
    CatalogueEntry(dist="navila-sim-mesh", kind="simulator", names=("mesh", "houses")),
    CatalogueEntry(dist="navila-sim-remote", kind="simulator", names=("remote", "habitat", "isaac")),
    CatalogueEntry(dist="navila-sim-remote", kind="command", names=("sim-remote", "serve")),
    CatalogueEntry(
        dist="navila-bench-image",
        kind="benchmark",
        names=(
            *("vqav2", "gqa", "textvqa", "textvqa-ocr", "textvqa@ocr", "vizwiz", "docvqa", "chartqa", "ocrbench"),
            *("pope", "mme", "refcoco", "refcoco+", "refcocog", "ai2d", "realworldqa", "seedbench", "scienceqa"),
        ),
    ),
    CatalogueEntry(
        dist="navila-bench-reasoning",
        kind="benchmark",
        names=("mathvista-testmini", "mathvista-test", "mathvista", "mmmu-validation", "mmmu-dev", "mmmu-test", "mmmu"),
    ),
    CatalogueEntry(dist="navila-bench-niah", kind="benchmark", names=("niah", "vision-niah", "v-niah")),
    CatalogueEntry(
        dist="navila-bench-lmms",
        kind="benchmark",
        names=(
            *("lmms-ai2d", "lmms-chartqa", "lmms-docvqa_test", "lmms-docvqa_val", "lmms-gqa"),
            *("lmms-llava_in_the_wild", "lmms-llava-in-the-wild", "lmms-mmbench", "lmms-mme", "lmms-mmmu_test"),
            *("lmms-mmmu_val", "lmms-mmvet", "lmms-ocrbench", "lmms-pope", "lmms-realworldqa"),
            *(
                "lmms-scienceqa_full",
                "lmms-seedbench",
                "lmms-vizwiz_vqa_test",
                "lmms-vizwiz_vqa_val",
                "lmms-vqav2_test",
            ),
            "lmms-vqav2_val",
        ),
    ),
    CatalogueEntry(dist="navila-bench-scanqa", kind="benchmark", names=("scanqa",)),
    CatalogueEntry(
        dist="navila-bench-video",
        kind="benchmark",
        names=(
            *("msvd-qa", "msrvtt-qa", "activitynet-qa", "video-chatgpt", "nextqa", "nextqa-oe", "nextqa-mc"),
            *("egoschema", "egoschema_full", "videomme", "videomme-subtitles", "videomme_w_subtitle"),
            *("perception-test", "cinepile"),
        ),
    ),
    CatalogueEntry(
        dist="navila-bench-vln",
        kind="benchmark",
        names=("houses", "r2r-ce", "r2r", "rxr-ce", "rxr", "envdrop", "scan"),
    ),
    CatalogueEntry(dist="navila-data", kind="command", names=("data",)),
    CatalogueEntry(dist="navila-train", kind="command", names=("train",)),
    CatalogueEntry(dist="navila-eval", kind="command", names=("eval",)),
    CatalogueEntry(dist="navila-eval", kind="callback", names=("benchmark",)),
    CatalogueEntry(dist="navila-demo", kind="command", names=("demo",)),
)


def distribution_offering(kind: str, name: str) -> str | None:
    """Name of the first-party distribution that brings this component, or None when none is known to."""
    for entry in CATALOGUE:
        if entry.kind == kind and (name in entry.names or name in entry.model_types):
            return entry.dist
    return None

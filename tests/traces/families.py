"""Families of models, small and random: what capture makes of each.

``python tests/traces/families.py`` captures all of them and writes the table of docs/traces.md.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from accelsim.errors import TraceError
from accelsim.traces import OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS, AttentionTrace, header_schema
from accelsim.traces.capture import Placement, capture
from accelsim.traces.capture.placement import ON_CPU

PAGE = Path(__file__).parents[2] / "docs" / "traces.md"
SCHEMA_FILE = PAGE.parent / "attention-trace-2.schema.json"
BEGIN, END = "<!-- families -->", "<!-- /families -->"
TEXT = "a b c a a b a c b b c a " * 4
RUNS = ((24, 0), (8, 10), (16, 6))
"""Prompt and decoding steps: a prompt beyond a window of 12, one inside with decoding across it,
and one beyond it that decodes."""

SMALL = {
    "vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
GQA = SMALL | {"num_key_value_heads": 2}
WINDOW = GQA | {"sliding_window": 12}
HEAD = {"head_dim": 8}
OLD = {"vocab_size": 20, "pad_token_id": 0}
PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense", "out_lin", "Wo", "o", "proj")
"""Names that models give the projection of their attention's output."""
PARENTS = (
    "self_attn",
    "attn",
    "self_attention",
    "encoder_attn",
    "SelfAttention",
    "EncDecAttention",
)
EXPERTS = {
    "num_local_experts": 2, "num_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
}  # fmt: skip
LATENT = SMALL | {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 2, "num_experts_per_tok": 1,
    "moe_intermediate_size": 16, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
INDEXED = LATENT | {"index_topk": 4, "index_n_heads": 2, "index_head_dim": 8}
SIGHT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
SEES = {
    "text_config": GQA | {"model_type": "llama"},
    "vision_config": SIGHT | {"model_type": "clip_vision_model"},
}


DISENTANGLED = {
    "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8,
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "max_relative_positions": -1,
}  # fmt: skip
TOWERS = {
    "text_config": SMALL | {"eos_token_id": 2, "bos_token_id": 1, "projection_dim": 16},
    "vision_config": SIGHT | {"projection_dim": 16},
    "projection_dim": 16,
}
CROP = {"size": {"shortest_edge": 16}, "crop_size": 16}
SQUARE = {"size": {"height": 16, "width": 16}}
QWEN = {
    "text_config": GQA
    | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}},
    "vision_config": {
        "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 8,
    },
    "image_token_id": 5,
    "video_token_id": 6,
    "vision_start_token_id": 7,
    "vision_end_token_id": 8,
}  # fmt: skip
PIECES = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
IDEFICS = {
    "text_config": GQA | {"model_type": "llama"}, "vision_config": SIGHT, "image_token_id": 4,
    "pad_token_id": 0, "scale_factor": 2,
}  # fmt: skip
FALCON = OLD | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
T5 = OLD | {
    "d_model": 32, "d_kv": 8, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 3, "d_ff": 32,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}  # fmt: skip
STACKS = OLD | {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        name: of the table.
        model: class of transformers.
        config: class of its configuration.
        fields: of the configuration.
        refused: part of the reason where capture refuses it; empty where it is captured.
        decodes: whether it generates.
    """

    name: str
    model: str
    config: str
    fields: dict[str, Any] = field(hash=False)
    refused: str = ""
    decodes: bool = True
    gated: bool = False
    """Whether a gate, or the difference of two heads, comes before the output projection."""
    check: str = "eager"
    """Attention of transformers that the trace is compared with; Falcon's ``eager`` adds ALiBi
    twice, once in the mask."""
    text: bool = True
    """Whether it reads a text."""
    processor: tuple[Any, ...] = field(default=(), hash=False)
    """Of a model that sees or hears: class of its processor, if its text is read with it, class of
    what reads the file, and the settings of both."""
    nested: bool = False
    """Whether that takes a list of images for each text."""
    needs: tuple[str, ...] = ()
    """Packages that its processor needs."""


def causal(
    name: str,
    prefix: str,
    fields: dict[str, Any],
    refused: str = "",
    config: str = "",
    **more: Any,
) -> Family:
    """A family that generates."""
    return Family(
        name, f"{prefix}ForCausalLM", config or f"{prefix}Config", fields, refused, **more
    )


def encoder(name: str, prefix: str, fields: dict[str, Any], refused: str = "") -> Family:
    """A family that does not."""
    return Family(name, f"{prefix}Model", f"{prefix}Config", fields, refused, decodes=False)


FAMILIES = [
    causal("Llama 2, 3", "Llama", GQA),
    causal(
        "Llama 4 (chunks)",
        "Llama4",
        GQA
        | EXPERTS
        | HEAD
        | {"attention_chunk_size": 12, "intermediate_size_mlp": 32, "num_hidden_layers": 4},
        config="Llama4TextConfig",
    ),
    causal("Mistral", "Mistral", WINDOW),
    causal("Mixtral", "Mixtral", GQA | EXPERTS),
    causal("Qwen2", "Qwen2", GQA),
    causal(
        "Qwen2 (windows)", "Qwen2", WINDOW | {"use_sliding_window": True, "max_window_layers": 1}
    ),
    causal("Qwen3", "Qwen3", GQA | HEAD),
    causal("Qwen3-MoE", "Qwen3Moe", GQA | EXPERTS | HEAD),
    causal(
        "Qwen3-Next (hybrid)",
        "Qwen3Next",
        GQA
        | EXPERTS
        | HEAD
        | {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "shared_expert_intermediate_size": 16,
        },
        gated=True,
    ),
    causal("Gemma 1", "Gemma", GQA | HEAD),
    causal("Gemma 2 (windows, soft cap)", "Gemma2", WINDOW | HEAD),
    causal(
        "Gemma 3 (windows)",
        "Gemma3",
        WINDOW | HEAD | {"num_hidden_layers": 7},
        config="Gemma3TextConfig",
    ),
    causal(
        "Gemma 3n (windows)",
        "Gemma3n",
        WINDOW
        | HEAD
        | {
            "num_hidden_layers": 6,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 20,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "intermediate_size": [32] * 6,
            "activation_sparsity_pattern": [0.0] * 6,
            "laurel_rank": 4,
        },
        config="Gemma3nTextConfig",
    ),
    causal(
        "Gemma 4 (windows, wider full layers)",
        "Gemma4",
        WINDOW
        | HEAD
        | {
            "num_hidden_layers": 6,
            "global_head_dim": 16,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 20,
        },
        config="Gemma4TextConfig",
    ),
    causal(
        "Laguna (heads by layer)",
        "Laguna",
        WINDOW
        | HEAD
        | {
            "num_attention_heads_per_layer": [4, 8, 4],
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
            "num_experts": 2,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
        gated=True,
    ),
    causal("Phi-3", "Phi3", WINDOW),
    causal("Cohere 2", "Cohere2", WINDOW | {"num_hidden_layers": 5}),
    causal("StarCoder 2", "Starcoder2", WINDOW),
    causal("OLMo 2", "Olmo2", GQA),
    causal("SmolLM3", "SmolLM3", GQA),
    causal("Granite (own scale)", "Granite", GQA | {"attention_multiplier": 0.3}),
    Family(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        OLD | {"n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4},
    ),
    Family(
        "GPT-2 (scale by layer)",
        "GPT2LMHeadModel",
        "GPT2Config",
        OLD
        | {
            "n_positions": 64,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "scale_attn_by_inverse_layer_idx": True,
        },
    ),
    causal("GPT-NeoX", "GPTNeoX", SMALL),
    causal(
        "OPT",
        "OPT",
        OLD
        | {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "ffn_dim": 32,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
    ),
    causal("gpt-oss (windows, sinks)", "GptOss", WINDOW | EXPERTS | HEAD),
    causal("DeepSeek-V2 (MLA)", "DeepseekV2", LATENT),
    causal("DeepSeek-V3 (MLA)", "DeepseekV3", LATENT),
    causal("DeepSeek-V3.2 (indexer)", "DeepseekV32", INDEXED),
    causal("GLM-5 (indexer)", "GlmMoeDsa", INDEXED),
    causal("Doge (dynamic mask)", "Doge", GQA | {"keep_window_size": 6}, "see different keys"),
    causal("DiffLlama", "DiffLlama", GQA, gated=True),
    causal(
        "GPT-Neo",
        "GPTNeo",
        OLD
        | {
            "hidden_size": 32,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 12,
            "max_position_embeddings": 64,
        },
    ),
    causal("BLOOM (ALiBi)", "Bloom", OLD | {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    causal("Falcon (one KV head)", "Falcon", FALCON),
    causal(
        "Falcon (grouped heads)",
        "Falcon",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    causal(
        "Falcon (ALiBi)", "Falcon", FALCON | {"alibi": True, "multi_query": False}, check="sdpa"
    ),
    causal("MPT (ALiBi)", "Mpt", OLD | {"d_model": 32, "n_heads": 4, "n_layers": 3}),
    encoder("BERT", "Bert", SMALL),
    encoder("RoBERTa", "Roberta", SMALL),
    encoder(
        "DistilBERT",
        "DistilBert",
        OLD
        | {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 32, "max_position_embeddings": 64},
    ),
    encoder("ALBERT", "Albert", SMALL | {"embedding_size": 16}),
    encoder("ELECTRA", "Electra", SMALL | {"embedding_size": 16}),
    encoder("MPNet (relative bias)", "MPNet", SMALL),
    encoder("DeBERTa-v3 (stored bias)", "DebertaV2", SMALL | DISENTANGLED),
    encoder(
        "DeBERTa (first version)",
        "Deberta",
        SMALL | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "0 of 3 layers call",
    ),
    encoder(
        "ModernBERT (windows)",
        "ModernBert",
        SMALL
        | {
            "local_attention": 12,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family(
        "EmbeddingGemma (windows on both sides)",
        "Gemma3TextModel",
        "Gemma3TextConfig",
        WINDOW | HEAD | {"use_bidirectional_attention": True},
        decodes=False,
    ),
    Family("T5 (relative bias)", "T5ForConditionalGeneration", "T5Config", T5),
    Family(
        "LongT5 (local encoder)",
        "LongT5ForConditionalGeneration",
        "LongT5Config",
        T5 | {"local_radius": 4},
        "no layer of its encoder",
    ),
    Family("T5 (encoder alone)", "T5EncoderModel", "T5Config", T5, decodes=False),
    Family(
        "BART",
        "BartForConditionalGeneration",
        "BartConfig",
        STACKS | {"max_position_embeddings": 64},
    ),
    encoder("CLIP (text)", "CLIPText", SMALL | {"eos_token_id": 2, "bos_token_id": 1}),
    Family(
        "CLIP (both towers)",
        "CLIPModel",
        "CLIPConfig",
        TOWERS,
        decodes=False,
        text=True,
        processor=("CLIPProcessor", "CLIPImageProcessor", CROP),
    ),
    Family(
        "SigLIP (both towers)",
        "SiglipModel",
        "SiglipConfig",
        TOWERS,
        decodes=False,
        text=True,
        processor=("SiglipProcessor", "SiglipImageProcessor", SQUARE),
    ),
    Family(
        "SigLIP (vision)",
        "SiglipVisionModel",
        "SiglipVisionConfig",
        SIGHT,
        decodes=False,
        text=False,
        processor=("", "SiglipImageProcessor", SQUARE),
    ),
    Family(
        "ViT",
        "ViTModel",
        "ViTConfig",
        SIGHT,
        decodes=False,
        text=False,
        processor=("", "ViTImageProcessor", SQUARE),
    ),
    Family(
        "DeiT",
        "DeiTModel",
        "DeiTConfig",
        SIGHT,
        decodes=False,
        text=False,
        processor=("", "DeiTImageProcessor", SQUARE | {"do_center_crop": False}),
    ),
    Family(
        "Whisper (audio)",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        STACKS | {"num_mel_bins": 8, "max_source_positions": 50, "max_target_positions": 32},
        text=False,
        processor=("", "WhisperFeatureExtractor", {"feature_size": 8, "chunk_length": 1}),
    ),
    Family(
        "LLaVA (text only)",
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        SEES | {"image_token_index": 4},
    ),
    Family(
        "LLaVA (image)",
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        SEES | {"image_token_index": 4},
        processor=(
            "LlavaProcessor",
            "CLIPImageProcessor",
            CROP,
            {
                "patch_size": 8,
                "vision_feature_select_strategy": "default",
                "num_additional_image_tokens": 1,
            },
        ),
    ),
    Family(
        "Idefics 3 (image)",
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        IDEFICS,
        processor=("Idefics3Processor", "Idefics3ImageProcessor", PIECES, {"image_seq_len": 1}),
        nested=True,
    ),
    Family(
        "SmolVLM (image)",
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        IDEFICS,
        processor=(
            "SmolVLMProcessor",
            "SmolVLMImageProcessor",
            PIECES,
            {"image_seq_len": 1, "video": "SmolVLMVideoProcessor"},
        ),
        nested=True,
        needs=("torchvision", "num2words"),
    ),
    Family(
        "PaliGemma (image)",
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "text_config": GQA | HEAD | {"model_type": "gemma"},
            "vision_config": SIGHT | {"model_type": "siglip_vision_model", "projection_dim": 32},
            "image_token_index": 4,
            "projection_dim": 32,
        },
        processor=("PaliGemmaProcessor", "SiglipImageProcessor", SQUARE | {"image_seq_length": 4}),
    ),
    Family("Qwen2-VL (text only)", "Qwen2VLForConditionalGeneration", "Qwen2VLConfig", QWEN),
    Family(
        "Qwen2-VL (image)",
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        QWEN,
        processor=(
            "Qwen2VLProcessor",
            "Qwen2VLImageProcessor",
            {"patch_size": 8, "min_pixels": 256, "max_pixels": 1024},
            {"video": "Qwen2VLVideoProcessor"},
        ),
        needs=("torchvision",),
    ),
    Family(
        "MiniMax-M3 (indexer of blocks)",
        "MiniMaxM3VLForCausalLM",
        "MiniMaxM3VLTextConfig",
        GQA
        | EXPERTS
        | HEAD
        | {
            "index_block_size": 4,
            "layer_types": ["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            "index_topk_blocks": 2,
            "index_n_heads": 2,
            "index_head_dim": 8,
        },
        "its heads see different keys",
    ),
]


WORDS = (
    "a", "b", "c", "?", "<image>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>",
    "<|vision_end|>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>",
    "<bos>",
)  # fmt: skip


def save(family: Family, folder: Path) -> str:
    """Save a family's model, with small random weights, a tokenizer of three words, an image."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    config = getattr(transformers, family.config)(**family.fields)
    model = getattr(transformers, family.model)(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:  # sharper than a fresh model, whose attention is nearly uniform
                weight.mul_(4.0)
            if name.endswith(("sinks", "self_attn.A")):
                weight.normal_()
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="?",
        bos_token="<bos>",
        additional_special_tokens=list(WORDS[4:-1]),
    )
    fast.save_pretrained(folder)
    if family.processor:
        both, reads, settings, *more = family.processor
        reader = getattr(transformers, reads)(**settings)
        if both:
            own = dict(more[0]) if more else {}
            if video := own.pop("video", None):
                own["video_processor"] = getattr(transformers, video)(**settings)
            reader = getattr(transformers, both)(reader, fast, **own)
        reader.save_pretrained(folder)
        _image(folder / "image.png")
        _sound(folder / "sound.wav")
    return str(folder)


def _image(path: Path) -> None:
    from PIL import Image

    colours = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(colours).save(path)


def _sound(path: Path) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16000)
        tone = np.sin(np.arange(16000) / 20) * 8000
        stream.writeframes(tone.astype("<i2").tobytes())


def run(
    family: Family, model: str, prefill: int | None, decode: int, placement: Placement = ON_CPU
) -> AttentionTrace:
    """Capture a family once."""
    folder = Path(model)
    if not family.processor:
        return capture(model, TEXT, prefill=prefill, decode=decode, placement=placement)
    if "Feature" in family.processor[1]:
        return capture(model, audio=folder / "sound.wav", decode=decode, placement=placement)
    text = TEXT[: 2 * (prefill or 0)] if family.text else ""
    images = [folder / "image.png"]
    return capture(model, text, images=images, decode=decode, placement=placement)


def traces(family: Family, folder: Path) -> Iterator[AttentionTrace]:
    """Capture a family in every one of :data:`RUNS` that it has."""
    model = save(family, folder)
    for prefill, decode in RUNS if family.decodes else RUNS[:1]:
        yield run(family, model, prefill, decode)


def eager_outputs(family: Family, model: str, trace: AttentionTrace) -> list[Any]:
    """What the model's attention gives to its output projection, under transformers' own ``eager``.

    Returns:
        By layer of the trace, [tokens, width]: of all tokens at once, without a cache.
    """
    import torch
    import transformers

    kind = getattr(transformers, family.model)
    network = kind.from_pretrained(model, attn_implementation=family.check).eval()
    seen: list[tuple[bool, Any]] = []

    def keep(name: str) -> Any:
        beside = "vis" in name and trace.layer(0).stack == "vision"
        return lambda _, given: seen.append((not beside, given[0].flatten(0, -2)))

    for name, module in network.named_modules():
        *_, parent, own = ("", "", *name.split("."))
        # BERT's attention.output.dense; ALBERT's layers are one module, called again and again.
        attends = parent in PARENTS or (parent in ("attention", "output") and "attention" in name)
        if own in PROJECTIONS and attends:
            module.register_forward_pre_hook(keep(name))
    with torch.no_grad():
        network(**_whole(family, Path(model), trace))
    return [rows for _, rows in sorted(seen, key=lambda one: one[0])]


def _whole(family: Family, folder: Path, trace: AttentionTrace) -> dict[str, Any]:
    """What the model is given to see all tokens of a trace at once."""
    import torch
    import transformers
    from PIL import Image

    ids = trace.token_ids
    tokens = {} if ids is None else {"input_ids": torch.tensor([ids.tolist()])}
    if family.processor:
        if "Feature" in family.processor[1]:
            reader = transformers.AutoFeatureExtractor.from_pretrained(folder)
            with wave.open(str(folder / "sound.wav")) as stream:
                sound = np.frombuffer(stream.readframes(1 << 20), "<i2") / np.float32(32768)
            made = reader(sound, sampling_rate=16000, return_tensors="pt")
            return {**made, "decoder_input_ids": tokens["input_ids"]}
        with Image.open(folder / "image.png") as picture:
            reader = transformers.AutoImageProcessor.from_pretrained(folder)
            made = reader(images=[[picture]] if family.nested else picture, return_tensors="pt")
        if family.config == "PaliGemmaConfig":  # all of it a prefix
            made["token_type_ids"] = torch.zeros_like(tokens["input_ids"])
        if "image_grid_thw" in made:  # what its processor makes of the tokens
            made["mm_token_type_ids"] = (tokens["input_ids"] == 5).int()
        return {**made, **tokens}
    if trace.layer(0).stack == "encoder":
        read = transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
        return {
            "input_ids": torch.tensor([read[: trace.layer(0).tokens]]),
            "decoder_input_ids": tokens["input_ids"],
        }
    return tokens


def how(trace: AttentionTrace) -> str:
    """What a trace says beyond ``attention-trace/1``, in words."""
    found: dict[str, None] = {}
    for layer in range(trace.num_layers):
        found |= dict.fromkeys(trace.layer(layer).beyond())
    for stack in trace.stacks():
        shapes = {OTHER_HEADS, OTHER_KV_HEADS, OTHER_WIDTHS} & set(stack.trace.beyond())
        found |= dict.fromkeys(sorted(shapes))
    scales = {trace.layer(layer).scale for layer in range(trace.num_layers)}
    if len(scales) > 1:
        found["a scale a layer"] = None
    if any(entry.model_layer is not None and not entry.group for entry in trace.layers):
        found["attention layers only"] = None
    return ", ".join(found) or "plain"


def rows() -> Iterator[str]:
    """Rows of the table."""
    yield "| family | captured | as | largest error |"
    yield "|---|---|---|---|"
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = list(traces(family, Path(folder)))
            except TraceError as error:
                reason = str(error).replace(f"{folder}: ", "").split("; expected")[0]
                yield f"| {family.name} | no | {reason[:110]} | – |"
                continue
        words = dict.fromkeys(word for trace in found for word in how(trace).split(", "))
        if len(words) > 1:
            words.pop("plain", None)
        worst = max(trace.proof_error or 0.0 for trace in found)
        yield f"| {family.name} | yes | {', '.join(words)} | {worst:.0e} |"


def write() -> None:
    """Write the table between its marks in the page, and the schema beside it."""
    for package in {name for family in FAMILIES for name in family.needs}:
        importlib.import_module(package)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.partition(END)[2]
    table = "\n".join(rows())
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    SCHEMA_FILE.write_text(json.dumps(header_schema(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    write()

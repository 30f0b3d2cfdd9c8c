"""Tiny random models, one of every architecture family that the library meets, and tiny token windows."""

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
)

VOCABULARY, HIDDEN, LENGTH = 128, 32, 64
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_DEPTH = {"num_hidden_layers": 3, "intermediate_size": 64}
_OPT = {"ffn_dim": 64, "num_hidden_layers": 3, "dropout": 0.0}

CONFIGS = {
    "opt": lambda: OPTConfig(**_COMMON, **_OPT),
    "opt-350m-layout": lambda: OPTConfig(
        **_COMMON, **_OPT, word_embed_proj_dim=16, do_layer_norm_before=False
    ),
    "llama": lambda: LlamaConfig(**_COMMON, **_DEPTH, num_key_value_heads=2, tie_word_embeddings=True),
    "mistral": lambda: MistralConfig(**_COMMON, **_DEPTH, num_key_value_heads=2, sliding_window=16),
    "qwen2": lambda: Qwen2Config(**_COMMON, **_DEPTH, num_key_value_heads=2),
    "gpt_neox": lambda: GPTNeoXConfig(**_COMMON, **_DEPTH),
    "bert": lambda: BertConfig(
        **_COMMON, **_DEPTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ),
}
FAMILIES = tuple(CONFIGS)
CAUSAL = tuple(family for family in FAMILIES if family != "bert")


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """A random fp32 model in eval mode; no parameter is trivially 0 or 1, not even a bias or norm."""
    torch.manual_seed(seed)
    auto = AutoModel if family == "bert" else AutoModelForCausalLM
    model = auto.from_config(CONFIGS[family](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_tokens(count: int = 4, length: int = 16, seed: int = 0) -> torch.Tensor:
    """Random token windows [count, length]; padding and special ids (0, 1, 2) do not occur."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count, length), generator=generator)

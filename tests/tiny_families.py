"""Configs of tiny models, one of each family that the library is tested on."""

import transformers as t

_SIZE = {"vocab_size": 128, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
_SIZE |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1}
_SIZE |= {"eos_token_id": 2}
_FEW = {"num_key_value_heads": 2}
_GPT = {"vocab_size": 128, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "bos_token_id": 1}
_GPT |= {"eos_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_LATENT |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1}
_LATENT |= {"topk_group": 1, "first_k_dense_replace": 0, "n_shared_experts": 1}
_STATES = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}
_STATES |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
FAMILIES = {
    "Llama": lambda: t.LlamaConfig(**_SIZE, **_FEW),
    "Mistral": lambda: t.MistralConfig(**_SIZE, **_FEW),
    "Qwen2": lambda: t.Qwen2Config(**_SIZE, **_FEW),
    "Qwen3": lambda: t.Qwen3Config(**_SIZE, **_FEW, head_dim=8),
    "Gemma": lambda: t.GemmaConfig(**_SIZE, **_FEW, head_dim=8),
    "Gemma2": lambda: t.Gemma2Config(**_SIZE, **_FEW, head_dim=8),
    "Gemma3": lambda: t.Gemma3TextConfig(**_SIZE, **_FEW, head_dim=8),
    "Phi": lambda: t.PhiConfig(**_SIZE),
    "Phi3": lambda: t.Phi3Config(**_SIZE, **_FEW),
    "StableLm": lambda: t.StableLmConfig(**_SIZE, **_FEW),
    "Olmo": lambda: t.OlmoConfig(**_SIZE, **_FEW),
    "Olmo2": lambda: t.Olmo2Config(**_SIZE, **_FEW),
    "Cohere": lambda: t.CohereConfig(**_SIZE, **_FEW),
    "Granite": lambda: t.GraniteConfig(**_SIZE, **_FEW),
    "Nemotron": lambda: t.NemotronConfig(**_SIZE, **_FEW, head_dim=8),
    "Starcoder2": lambda: t.Starcoder2Config(**_SIZE, **_FEW),
    "SmolLM3": lambda: t.SmolLM3Config(**_SIZE, **_FEW),
    "Glm": lambda: t.GlmConfig(**_SIZE, **_FEW, head_dim=8),
    "Persimmon": lambda: t.PersimmonConfig(**_SIZE),
    "OPT": lambda: t.OPTConfig(**{k: v for k, v in _SIZE.items() if k != "intermediate_size"}, ffn_dim=64),
    "GPTNeoX": lambda: t.GPTNeoXConfig(**_SIZE),
    "GPTJ": lambda: t.GPTJConfig(**_GPT, rotary_dim=4),
    "GPT2": lambda: t.GPT2Config(**_GPT),
    "CodeGen": lambda: t.CodeGenConfig(**_GPT, rotary_dim=4),
    "Bloom": lambda: t.BloomConfig(vocab_size=128, hidden_size=32, n_layer=2, n_head=4),
    "Falcon": lambda: t.FalconConfig(**_SIZE),
    "MPT": lambda: t.MptConfig(vocab_size=128, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
    "Mixtral": lambda: t.MixtralConfig(**_SIZE, **_FEW, num_local_experts=4, num_experts_per_tok=2),
    "Qwen2Moe": lambda: t.Qwen2MoeConfig(**_SIZE, **_FEW, **_EXPERTS, shared_expert_intermediate_size=32),
    "Qwen3Moe": lambda: t.Qwen3MoeConfig(**_SIZE, **_FEW, **_EXPERTS, head_dim=8),
    "Olmoe": lambda: t.OlmoeConfig(**_SIZE, **_FEW, num_experts=4, num_experts_per_tok=2),
    "GptOss": lambda: t.GptOssConfig(
        **_SIZE,
        **_FEW,
        num_local_experts=4,
        num_experts_per_tok=2,
        head_dim=8,
        layer_types=["full_attention"] * 2,
    ),
    "GPTNeo": lambda: t.GPTNeoConfig(
        vocab_size=128,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "XGLM": lambda: t.XGLMConfig(vocab_size=128, d_model=32, ffn_dim=64, num_layers=2, attention_heads=4),
    "BioGPT": lambda: t.BioGptConfig(**_SIZE),
    "Mamba": lambda: t.MambaConfig(**_STATES),
    "DeepseekV2": lambda: t.DeepseekV2Config(**_SIZE, **_LATENT),
    "DeepseekV3": lambda: t.DeepseekV3Config(**_SIZE, **_LATENT),
    "GraniteMoe": lambda: t.GraniteMoeConfig(**_SIZE, **_FEW, num_local_experts=4, num_experts_per_tok=2),
    "DistilBERT": lambda: t.DistilBertConfig(vocab_size=128, dim=32, hidden_dim=64, n_layers=2, n_heads=4),
    "ALBERT": lambda: t.AlbertConfig(**_SIZE, embedding_size=16),
    "BERT": lambda: t.BertConfig(**_SIZE),
    "RoBERTa": lambda: t.RobertaConfig(**_SIZE),
    "Electra": lambda: t.ElectraConfig(**_SIZE),
    "ModernBERT": lambda: t.ModernBertConfig(**_SIZE, cls_token_id=1, sep_token_id=2),
}
ENCODERS = ("BERT", "RoBERTa", "Electra", "ModernBERT", "DistilBERT", "ALBERT")
MOE = ("Mixtral", "Qwen2Moe", "Qwen3Moe", "Olmoe", "GptOss", "DeepseekV2", "DeepseekV3", "GraniteMoe")

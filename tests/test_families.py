"""Families of models: every matrix of their blocks is pruned, retrained and quantized, or the report says which not."""

import copy

import pytest
import torch
import transformers as t
from tiny import tiny_tokens

from lmcompress.model_folder import load, save
from lmcompress.models import block_linears, coverage
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.retrain import adapters
from lmcompress.retrain.train import train
from lmcompress.unbundle import Experts, as_linears, bundled

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
ROUTERS = (
    0.97  # of the blocks' weights: the routers, some hundred weights of these tiny models, are not compressed
)


@pytest.fixture(scope="module")
def models():
    """Family -> a random model, made once."""
    made = {}

    def of(family):
        if family not in made:
            torch.manual_seed(0)
            auto = t.AutoModelForMaskedLM if family in ENCODERS else t.AutoModelForCausalLM
            model = auto.from_config(FAMILIES[family](), dtype=torch.float32).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            made[family] = model
        return copy.deepcopy(made[family])

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_retrained_and_quantized(models, family):
    model, windows = models(family), tiny_tokens(4)
    batches = [{"input_ids": windows}]
    report = prune_model(model, "wanda", "2:4", batches, output_errors=False, progress=False)
    if family == "Mamba":  # its convolutions and state matrices are no Linears, and the report names them
        assert {name.rpartition("mixer.")[2] for name in report.left} == {"A_log", "conv1d.weight"}
    else:
        assert report.coverage == 1 if family not in MOE else report.coverage > ROUTERS
    assert set(report.masks) == set(block_linears(model))
    mask.check(model, report.masks)
    assert report.sparsity == pytest.approx(0.5)
    labelled = [{"input_ids": windows, "labels": windows}]
    options = {"lr": 1e-3, "steps": 2, "batch_size": 4, "progress": False}
    for subset in (
        ("norms", "masklora") if family != "Olmo" else ("masklora",)
    ):  # its norms have no parameters
        trained = train(model, labelled, subset, report.masks, **options)
        assert trained.trainable > 0
        adapters.merge(model)
    mask.check(model, report.masks)
    quantized = quantize_model(model, dict.fromkeys(block_linears(model), "4bit"), masks=report.masks)
    assert len(quantized.layers) == len(report.masks)
    mask.check(model, report.masks)


@pytest.mark.parametrize("family", [*MOE, "GPT2"])
def test_linears_compute_the_same_and_are_put_back_bit_for_bit(models, family, tmp_path):
    model, windows = models(family), tiny_tokens(3)
    with torch.no_grad():
        before, weights = model(windows).logits, {k: v.clone() for k, v in model.state_dict().items()}
        after = as_linears(model)(windows).logits
    assert torch.allclose(before, after, atol=1e-5)
    assert coverage(model, block_linears(model))[0] > ROUTERS
    with bundled(model):
        again = model.state_dict()
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert as_linears(model) is model
    report = prune_model(model, "magnitude", "50%")
    adapters.attach(model, "masklora", masks=report.masks)
    adapters.merge(model)  # leaves new Linears, which are to be put back as well
    save(model, None, tmp_path / "saved", masks=report.masks)
    plain = type(model).from_pretrained(tmp_path / "saved")
    loaded, _, masks = load(tmp_path / "saved", "cpu")
    with torch.no_grad():
        expected = model(windows).logits
        assert torch.allclose(plain(windows).logits, expected, atol=1e-5)
        assert torch.allclose(loaded(windows).logits, expected, atol=1e-5)
    assert masks.keys() == report.masks.keys()


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_an_expert_that_saw_no_token_is_said_and_pruned_by_magnitude(models, criterion):
    model = as_linears(models("Mixtral"))
    gate = model.model.layers[0].mlp.gate
    with torch.no_grad():
        gate.weight.zero_()
        gate.weight[:2] = 1.0  # the router sends all tokens to the experts 0 and 1, or to 2 and 3
    report = prune_model(model, criterion, "50%", [{"input_ids": tiny_tokens(1, 2)}], progress=False)
    unseen = [name for name, layer in report.layers.items() if layer.unseen]
    assert unseen
    assert all(".experts." in name for name in unseen)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)


def test_experts_have_masks_of_their_own(models):
    model = models("Mixtral")
    report = prune_model(model, "wanda", "50%", [{"input_ids": tiny_tokens(8)}], progress=False)
    first, second = (report.masks[f"model.layers.0.mlp.experts.{n}.up"] for n in (0, 1))
    assert not torch.equal(first, second)
    assert isinstance(model.model.layers[0].mlp.experts, Experts)

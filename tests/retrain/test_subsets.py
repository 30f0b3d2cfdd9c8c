"""Subsets: which parameters they hold, how many in the published architectures, what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokens
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, MistralConfig, OPTConfig

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, blocks, head
from lmcompress.retrain import names, subsets

LORA_ALL = "lora+biases+norms+head-lora"


def opt(hidden, layers, **other):
    base = {
        "ffn_dim": 4 * hidden,
        "num_attention_heads": 8,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
    }
    return OPTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        word_embed_proj_dim=other.pop("project", hidden),
        **base,
        **other,
    )


def llama(hidden, layers, inner):
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=inner,
        vocab_size=32000,
        num_attention_heads=8,
    )


MISTRAL = MistralConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    intermediate_size=14336,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=32000,
)

# Percent of all parameters, rank 16: biases, norms, both, LoRA, LoRA with all small subsets (of the grown
# model), full head.
SHARES = {
    "OPT-125M": (opt(768, 12), (".0816", ".0307", ".0969", "2.119", "2.791", "30.8")),
    "OPT-350M": (
        opt(1024, 24, project=512, do_layer_norm_before=False),
        (".0816", ".0297", ".0965", "2.137", "2.421", "7.8"),
    ),
    "OPT-1.3B": (opt(2048, 24), (".0412", ".0153", ".0489", "1.076", "1.175", "7.8")),
    "OPT-2.7B": (opt(2560, 32), (".0341", ".0126", ".0404", ".890", ".953", "4.9")),
    "OPT-6.7B": (opt(4096, 32), (".0217", ".0080", ".0257", ".567", ".602", "3.1")),
    "OPT-13B": (opt(5120, 40), (".0176", ".0065", ".0208", ".459", ".484", "2.0")),
    "OPT-30B": (opt(7168, 48), (".0127", ".0046", ".0150", ".331", ".347", "1.2")),
    "LLaMA-2-7B": (llama(4096, 32, 11008), (None, ".0040", None, ".593", None, "1.95")),
    "LLaMA-2-13B": (llama(5120, 40, 13824), (None, ".0032", None, ".481", None, "1.26")),
    "Mistral-7B": (MISTRAL, (None, ".0037", None, ".579", None, "1.81")),
}
COLUMNS = ("biases", "norms", "biases+norms", "lora", LORA_ALL, "head")


def percent_of_grown(found):
    """As the peft library prints it: of all parameters, the added ones counted in."""
    return 100 * found.trainable / (found.total + found.added)


@pytest.mark.parametrize("name", SHARES)
def test_trainable_shares_of_the_published_architectures(name):
    config, expected = SHARES[name]
    with torch.device("meta"):
        model = subsets.AutoModelForCausalLM.from_config(config)
    for column, printed in zip(COLUMNS, expected, strict=True):
        if printed is None:
            with pytest.raises(ParameterError, match="norms"):
                subsets.count(model, column)
            continue
        found = subsets.count(model, column)
        percent = percent_of_grown(found) if column == LORA_ALL else found.percent
        assert abs(percent - float(printed)) <= 0.5 * 10.0 ** -len(printed.split(".")[1]) + 1e-9, column


@pytest.mark.parametrize(
    ("name", "percent"), [("LLaMA-2-7B", 0.602), ("LLaMA-2-13B", 0.486), ("Mistral-7B", 0.587)]
)
def test_models_without_biases_have_the_other_small_subsets(name, percent):
    assert round(percent_of_grown(subsets.count(SHARES[name][0], "lora+norms+head-lora")), 3) == percent


def test_a_config_is_counted_without_allocating_it():
    found = subsets.count(opt(7168, 48), "full")
    assert found.trainable == found.total == 29_974_540_288


def test_new_biases_are_one_value_an_output():
    config = llama(4096, 32, 11008)
    assert subsets.count(config, "new-biases").trainable == 32 * (5 * 4096 + 2 * 11008)


def test_biases_and_norms_overlap_in_the_norm_biases():
    model = tiny_model("opt")
    sizes = {name: subsets.count(model, name).trainable for name in ("biases", "norms", "biases+norms")}
    norm_biases = 32 * (2 * 3 + 1)
    assert sizes["biases+norms"] == sizes["biases"] + sizes["norms"] - norm_biases


@pytest.mark.parametrize("family", ["opt", "opt-350m-layout", "llama", "qwen2", "gpt_neox", "bert"])
@pytest.mark.parametrize("spec", ["norms", "embeddings", "lora", "scalelora", "full", "nothing"])
def test_selected_parameters_are_exactly_those_that_train_and_as_many_as_counted(family, spec):
    model = tiny_model(family)
    expected = subsets.count(model, spec, rank=2)
    trained = subsets.select(model, spec, rank=2)
    assert sum(value.numel() for value in trained.values()) == expected.trainable
    assert {id(p) for p in trained.values()} == {id(p) for p in model.parameters() if p.requires_grad}
    for name, parameter in trained.items():
        assert model.get_parameter(name) is parameter


def test_a_subset_empty_for_the_model_is_refused_with_those_that_exist():
    model = tiny_model("llama")
    before = [p.requires_grad for p in model.parameters()]
    with pytest.raises(ParameterError) as error:
        subsets.select(model, "biases")
    assert "new-biases" in error.value.valid
    assert "norms" in error.value.valid
    assert ", biases" not in error.value.valid
    assert before == [p.requires_grad for p in model.parameters()]
    with pytest.raises(ParameterError, match="BertModel"):
        subsets.select(tiny_model("bert"), "head")
    with pytest.raises(ParameterError):
        subsets.select(tiny_model("opt"), "new-biases")


@pytest.mark.parametrize(
    "text", ["bias", "", "norms+", "full+norms", "nothing+head", "lora+masklora", "head+head-lora", 3]
)
def test_unknown_names_and_impossible_combinations_are_refused(text):
    with pytest.raises(ParameterError):
        subsets.parse(text)


@given(st.sets(st.sampled_from([*names.EXISTING, "new-biases", "masklora"]), min_size=1), st.randoms())
def test_parsing_does_not_depend_on_the_order_and_round_trips(names, random):
    shuffled = sorted(names)
    random.shuffle(shuffled)
    subset = subsets.parse(" + ".join(shuffled))
    assert set(subset.names) == names
    assert subsets.parse(str(subset)) == subset == subsets.parse(subset)


@pytest.mark.parametrize("spec", ["head", "head-lora", "embeddings"])
def test_a_tied_head_is_untied_before_it_is_trained(spec):
    model, tokens = tiny_model("llama"), tiny_tokens()
    before = model(tokens).logits
    assert head(model).weight is model.get_input_embeddings().weight
    subsets.select(model, spec)
    assert head(model).weight.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert torch.equal(model(tokens).logits, before)


def test_full_retraining_keeps_a_tied_head_tied():
    model = tiny_model("llama")
    subsets.select(model, "full")
    assert head(model).weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_new_biases_change_nothing_until_they_train(family):
    model, tokens = tiny_model(family), tiny_tokens()
    before = model(tokens).logits
    bias_free = [name for name, layer in block_linears(model).items() if layer.bias is None]
    trained = subsets.select(model, "new-biases")
    assert set(trained) == {f"{name}.bias" for name in bias_free}
    assert torch.equal(model(tokens).logits, before)
    assert all(layer.bias is not None for layer in block_linears(model).values())


def test_the_classes_of_a_classifier_are_its_head():
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=128,
        num_labels=5,
    )
    model = BertForSequenceClassification(config)
    trained = subsets.select(model, "head+biases")
    assert {"classifier.weight", "classifier.bias", "bert.pooler.dense.bias"} <= set(trained)
    assert "bert.pooler.dense.weight" not in trained


def test_one_block_has_subsets_of_its_own():
    model = tiny_model("llama")
    block = next(iter(blocks(model).values()))
    layers = {name: module for name, module in block.named_modules() if isinstance(module, torch.nn.Linear)}
    trained = subsets.select_within(block, layers, "norms+scalelora", rank=2)
    assert sum(value.numel() for name, value in trained.items() if "norm" in name) == 64
    with pytest.raises(ParameterError, match="norms"):
        subsets.select_within(block, layers, "head")

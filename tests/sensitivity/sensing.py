"""What the sensitivity tests share: models with a loss, a quantizer, exact copies of the weights."""

import torch
from tiny import CONFIGS, tiny_model, tiny_tokens
from torch import nn
from transformers import BertForSequenceClassification

MODELS = ("llama", "opt", "bert")


def model_and_batches(family: str, windows: int = 8, double: bool = False):
    """A causal model with token batches, or a BERT classifier with labelled ones; two batches."""
    labels = {}
    if family == "bert":
        config = CONFIGS["bert"]()
        config.num_labels = 3
        torch.manual_seed(0)
        model = BertForSequenceClassification(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        labels = {"labels": torch.arange(windows) % 3}
    else:
        model = tiny_model(family)
    batches = [{"input_ids": tiny_tokens(windows, 16, seed), **labels} for seed in range(2)]
    return (model.double() if double else model), batches


def rounding(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric round-to-nearest per row."""
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (weight / scale).round() * scale


def nudge(size: float):
    """A "quantizer" whose step is a fixed direction of the given size, small enough for Taylor."""

    def change(weight: torch.Tensor, bits: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(weight.numel() + bits)
        return weight + size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)

    return change


def snapshot(model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, bool]]:
    """All weights and buffers as they are now, and which ask for gradients."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        {name: value.requires_grad for name, value in model.named_parameters()},
    )


def assert_untouched(model: nn.Module, before) -> None:
    """Weights equal bit for bit, same flags, no gradients, hooks or replaced forwards left behind."""
    weights, flags = before
    now = model.state_dict()
    assert all(torch.equal(now[name], value) for name, value in weights.items())
    assert {name: value.requires_grad for name, value in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Tower(nn.Module):
    """Two "blocks" of one Linear each, for losses that can be worked out by hand: only the weights matter."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(3, 2, bias=False)) for _ in range(2)]).double()

    @property
    def flat(self) -> torch.Tensor:
        return torch.cat([layer[0].weight.flatten() for layer in self.layers])


NAMES = ("layers.0.0", "layers.1.0")
ONE = [{"input_ids": torch.zeros(1, 1, dtype=torch.long)}]

"""A tiny pruned model for the tests of retraining."""

import torch
from tiny import tiny_model

from lmcompress.models import block_linears
from lmcompress.prune import mask


def pruned_model(family="llama", dtype=torch.float32, keep=0.5):
    """A tiny model with a random half of every block Linear dropped, and its masks."""
    model = tiny_model(family).to(dtype)
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: torch.rand(layer.weight.shape, generator=generator) < keep
        for name, layer in block_linears(model).items()
    }
    mask.apply(model, masks)
    return model, masks

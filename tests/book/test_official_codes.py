"""What the page on the official codes calls "run": each finding shown in a few lines, without those codes."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from tiny import tiny_model, tiny_tokens
from torch import nn

from lmcompress.models import blocks
from lmcompress.sensitivity.similarity import basis, correlations


def test_setattr_with_a_dotted_name_replaces_nothing():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2)))
    in_use, replacement = model[0][0], nn.Linear(2, 2)
    setattr(model, "0.0", replacement)
    assert model[0][0] is in_use
    assert "0.0" in dict(model.named_children())  # a new child, which no forward pass of a real model calls
    x = torch.randn(1, 2)
    assert torch.equal(model[0](x), in_use(x))


def test_numbers_of_kmeans_clusters_are_not_in_order_of_their_centres():
    scores = np.array([[0.1], [0.2], [5.0], [5.1], [9.0], [9.2]])
    orders = {
        tuple(np.argsort(KMeans(3, random_state=seed, n_init=1).fit(scores).cluster_centers_[:, 0]))
        for seed in range(8)
    }
    assert len(orders) > 1


def test_first_correlation_is_one_with_as_many_features_as_samples():
    torch.manual_seed(0)
    x, y = torch.randn(30, 30), torch.randn(30, 30)
    assert correlations(basis(x), basis(y))[0] > 1 - 1e-9


def test_blocks_return_a_tensor_whose_first_element_is_the_first_text():
    model, seen = tiny_model("llama"), []
    block = next(iter(blocks(model).values()))
    with block.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
        model(input_ids=tiny_tokens(count=3, length=5))
    assert isinstance(seen[0], torch.Tensor)
    assert seen[0].shape[0] == 3
    assert seen[0][0].shape == (5, model.config.hidden_size)  # one text of three


def test_changing_a_tied_head_changes_the_input_embeddings():
    model = tiny_model("opt")
    before = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        model.get_output_embeddings().weight += 1.0  # as the merge of an adapter does
    assert torch.equal(model.get_input_embeddings().weight, before + 1.0)

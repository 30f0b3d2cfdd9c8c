"""From a sensitivity score to a table of predicted losses that a solver can use."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lmcompress.allocate.problem import Table
from lmcompress.errors import ParameterError
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.scores import layer_groups, quantized

FLOOR = 1e-3


def width_free_loss(scores: dict[str, float], relative_error: Table) -> Table:
    """``loss[l][c] = score_l x relative_error[l][c]`` for a score that does not depend on the choice (CMPQ,
    PMPQ).

    ``relative_error[l][c]``: ||Q_c(W) - W||^2 / ||W||^2 of the layer's weights. The reasoning: such a score
    says how much a layer matters, nothing of how much a choice disturbs it. The loss of a small disturbance
    grows with its square (the second-order term of a Taylor expansion); measured against the layer's own
    size it asks nothing of the score but to be a price for each unit of disturbance. Common to all such
    scores, so that they differ by their values alone.

    A score below ``FLOOR`` times the highest, a negative one too (a measured "improvement" is noise), counts
    as that much: at a price of 0 the solver would be free to waste bytes on the layer.
    """
    if set(scores) != set(relative_error):
        raise ParameterError("relative_error", sorted(relative_error), f"the layers {sorted(scores)}")
    highest = max(scores.values(), default=0.0)
    floor = FLOOR * highest if highest > 0 else 1.0  # no layer matters: only the disturbance counts
    price = {layer: max(score, floor) for layer, score in scores.items()}
    return {
        layer: {choice: price[layer] * error for choice, error in offered.items()}
        for layer, offered in relative_error.items()
    }


def loss_table(scores: Scores, widths: Sequence[int], relative_error: Table) -> Table:
    """``loss[layer][str(bits)]``: the scores themselves where they depend on the width, else the common rule
    above.
    """
    if "per_width" not in scores.detail:
        return width_free_loss(scores.per_layer, relative_error)
    tables = {bits: scores.at(bits) for bits in widths}
    return {layer: {str(bits): tables[bits][layer] for bits in widths} for layer in scores.per_layer}


def relative_errors(
    model: nn.Module, quantizer: Callable[[Tensor, int], Tensor], widths: Sequence[int], per: str = "linear"
) -> Table:
    """``[layer][str(bits)]``: ||Q_bits(W) - W||^2 / ||W||^2 over all weights of the layer (``linear`` or
    ``block``).
    """
    table: Table = {}
    for layer, inside in layer_groups(model, per).items():
        size = sum(float(linear.weight.detach().double().square().sum()) for linear in inside.values())
        table[layer] = {}
        for bits in widths:
            steps = (
                quantized(name, linear.weight, quantizer, bits).double() - linear.weight.detach().double()
                for name, linear in inside.items()
            )
            table[layer][str(bits)] = sum(float(step.square().sum()) for step in steps) / (size or 1.0)
    return table

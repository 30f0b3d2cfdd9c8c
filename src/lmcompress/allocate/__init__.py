"""Which format each layer gets, from a table of predicted losses and a budget of bytes.

=============  ==============================================================================================
``problem``    the tables (bytes and predicted loss of every choice of every layer) and an allocation
``solve``      the exact optimum (mixed-integer program), greedy, random draws, the frontier over budgets
``evolve``     evolutionary search on the loss of the whole model (EvoPress)
``clusters``   the paper's way: cluster the scores, one bit-width a cluster; no budget
``predict``    how a score that does not know the bit-width becomes a table of losses
=============  ==============================================================================================

Bytes come from ``quantize.formats.stored_bytes``, scales and masks counted; a choice may as well be a pair
of a sparsity pattern and a format. Every score goes through the same solver, so that what differs between
two allocations is the score alone.
"""

from lmcompress.lazily import callable_module

callable_module(__name__)

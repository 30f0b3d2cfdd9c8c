"""How much each layer minds being compressed: CPTQuant's scores, others, controls and the truth.

Every score function takes ``(model, batches, ...)`` and returns
:class:`~lmcompress.sensitivity.scores.Scores`.

======================  =====================================================================================
``cca``                 CMPQ: how little a layer's hidden states have in common with those of other layers
``pruning``             PMPQ: loss increase when one layer is pruned
``taylor``              TDMPQ: first and second order expansion of the loss, input perturbation
``hessian``             curvature: HAWQ-V2 trace, exact curvature along the step, Gauss-Newton; layer errors
``null``                controls that look at nothing: random, depth alone
``measured``            the truth: quantize one layer at a time and measure; rank agreement of scores with it
======================  =====================================================================================
"""

"""Retraining after pruning: what to train, how, and block by block."""

from lmcompress.lazily import callable_module

callable_module(__name__)

"""Retraining after pruning: what to train, how, and block by block."""

"""Pruning: patterns and masks as values, criteria as pure functions, one driver for models."""

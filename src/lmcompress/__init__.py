"""Run, measure and teach the compression of language models (PERP and CPTQuant)."""

__version__ = "0.1.0"

"""Quantization of weights: formats as values, rounding, GPTQ, packed files and real kernels."""

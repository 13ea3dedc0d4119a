"""Arithmetic of attention, arrays in and arrays out: references, kernels, top-k, quantization."""

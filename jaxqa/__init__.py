"""Reasoning image-quality and aesthetics scorers in JAX."""

"""Figures of a trained model: attention, token maps, reconstructions, retrieval.

Functions take a `base.Model`, such as `vtr_jax.load` returns, and return arrays or
PIL images.
"""

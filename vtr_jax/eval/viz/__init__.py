"""What a trained model sees: attention, tokens on patches, reconstructions, retrievals.

Functions take a `base.Model`, such as `vtr_jax.load` returns, and return arrays or
PIL images.
"""

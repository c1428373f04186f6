"""What a trained model sees: attention, tokens on patches, reconstructions, retrievals.

Functions take a `vtr_jax.inference.model.Model` or a `base.Seen` and return arrays or
PIL images.
"""

"""What a trained model sees: attention, words on places, what it rebuilds and finds.

Functions take a `vtr_jax.inference.model.Model` or a `base.Seen` and return arrays or
PIL images.
"""

"""vtr_jax: masked video-text pre-training and retrieval in JAX/Flax."""

__version__ = "0.1.0"

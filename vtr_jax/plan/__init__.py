"""Plans a training for chips that are not attached: python -m vtr_jax.plan."""

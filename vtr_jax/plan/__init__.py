"""Plans a training for chips that are not here: python -m vtr_jax.plan."""

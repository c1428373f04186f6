"""Recipes: one complete experiment per file, shared values in `common`.

Within the package they are `vtr_jax.configs`, so that no other package is meant: a link
in a checkout, copies of the files in an installed package.
"""

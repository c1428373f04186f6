"""Compares the forms of the contrastive loss on meshes; prints bytes of temporaries."""

import functools
import json

import jax
import numpy as np
from contrastive_cases import case, gradients

from vtr_jax.core import sharding
from vtr_jax.objectives.contrastive import ContrastConfig

out = []
for sizes in ((8, 1, 1), (2, 2, 2), (1, 4, 2)):
  mesh = sharding.make_mesh(sharding.MeshConfig(*sizes))
  put = functools.partial(jax.device_put, device=sharding.batch_sharding(mesh))
  for loss in ("info_nce", "sigmoid"):
    video, text, scale, valid = case(40)
    spread = put(video), put(text), scale, put(valid)
    with sharding.scope(mesh):
      want = gradients(ContrastConfig(loss, "dense", 1, -4.0), *spread)
      for form in ("ring", "chunked"):
        got = gradients(ContrastConfig(loss, form, 6, -4.0), *spread)
        jax.tree.map(
          lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), got, want
        )
mesh = sharding.make_mesh(sharding.MeshConfig(8, 1, 1))
video, text, scale, valid = case(4096)
put = lambda x: jax.device_put(x, sharding.batch_sharding(mesh))
spread = put(video), put(text), scale, put(valid)
sizes = {}
with sharding.scope(mesh):
  for form in ("dense", "ring"):
    config = ContrastConfig("info_nce", form, 256, 0.0)
    step = jax.jit(functools.partial(gradients, config))
    sizes[form] = step.lower(*spread).compile().memory_analysis().temp_size_in_bytes
print(json.dumps(sizes))

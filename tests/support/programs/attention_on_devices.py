"""Prints the number of devices, and the class token's attention on three clips."""

import viz_cases

from configs import mac
from vtr_jax.eval.viz import attention

model = viz_cases.small_model(mac)
joint = attention.attention(model, viz_cases.random_clips())["joint"]
print(model.mesh.size, *joint.cls.flat)

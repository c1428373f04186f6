"""The same losses and gradients on meshes of one, two, four and eight devices."""

import json

import pytest
from conftest import on_eight_devices


@pytest.mark.nightly
def test_every_mesh_gives_the_same_losses_and_gradients():
  """MILES: two towers, a teacher, and terms of both kinds."""
  assert len(json.loads(on_eight_devices("compare_meshes")[-1])) == 10

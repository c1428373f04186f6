"""Layers of parameters, by their paths: for layer-wise decay of the learning rate."""


def layer_of(path: str, depth: int) -> int | range:
  """Layer of a parameter of a tower, whose blocks `layers.run_blocks` made.

  0 precedes the blocks, i + 1 is block i, depth + 1 the final `norm`; a range if the
  blocks are stacked in one array.
  """
  name = path.partition("/")[0]
  if name == "blocks":
    return range(1, depth + 1)
  if name.startswith("block_"):
    return int(name.removeprefix("block_")) + 1
  return depth + 1 if name == "norm" else 0


def layers_above(layer: int | range, depth: int) -> int | range:
  """Number of layers above a layer as `layer_of` returns it."""
  if isinstance(layer, range):
    return range(depth + 1 - layer.start, depth + 1 - layer.stop, -1)
  return depth + 1 - layer

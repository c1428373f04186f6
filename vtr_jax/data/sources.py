"""Prepared data: what one record holds, and random access to the records."""

import numpy as np
import tensorflow_datasets as tfds


def features() -> tfds.features.FeaturesDict:
  """The record every prepared data set is made of.

  id: name that is unique in the data set. video: bytes of the encoded file (mp4
  and the like); `features.Video` would import TensorFlow. captions: one or more
  sentences. label: name of the class, empty when there is none.
  """
  return tfds.features.FeaturesDict(
    dict(
      id=tfds.features.Text(),
      video=tfds.features.Tensor(shape=(), dtype=np.object_),
      captions=tfds.features.Sequence(tfds.features.Text()),
      label=tfds.features.Text(),
    )
  )

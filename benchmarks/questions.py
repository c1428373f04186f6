"""Whether answers follow the clip: played backwards, and with another clip's questions.

  python -m benchmarks.questions --checkpoint=runs/moving_shapes-answers-mac-demo

For a run of configs/finetune_answers.py:moving_shapes, on the split `test` of
moving_shapes. A clip played backwards is a clip of the backward story, whose answers
are known. A model that sees a bag of frames answers as before.
"""

import numpy as np
from absl import app, flags, logging

from vtr_jax.data.moving_shapes import questions, render, scene
from vtr_jax.inference.load import load

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "Directory of the run.")
_CLIPS = flags.DEFINE_integer("clips", 1000, "Clips of the split, from its first.")


def main(_: list[str]) -> None:
  logging.set_verbosity(logging.ERROR)  # the reader of checkpoints
  model, count = load(_CHECKPOINT.value), _CLIPS.value
  meanings = scene.meanings("test", count)
  frames = [render.make_raw("test", i, m, 0)[0] for i, m in enumerate(meanings)]
  owner, texts, story, backward = [], [], [], []
  for i, notes in enumerate(questions.of_split("test", count)):
    asked = {q.text: q.answer for q in questions.asked(scene.backward(meanings[i]))}
    for note in notes:
      owner.append(i)
      texts.append(note.text)
      story.append(note.answer)
      backward.append(asked.get(note.text, ""))  # "": it cannot be asked of that
  story, backward = np.array(story), np.array(backward)
  forward = np.array(model.answer([frames[i] for i in owner], texts))
  turned = np.array(model.answer([frames[i][::-1].copy() for i in owner], texts))
  others = np.array(model.answer([frames[i - count // 2] for i in owner], texts))
  same, other = backward != "", (backward != "") & (backward != story)
  lines = [
    ("clips as they are, their answers", forward == story),
    ("played backwards, answers of the backward story", (turned == backward)[same]),
    ("  of these, where the two stories' answers differ", (turned == backward)[other]),
    ("  there, answers of the story as it was", (turned == story)[other]),
    ("another clip, answers of the own one", others == story),
  ]
  print(f"{model.name}: {len(story):,} questions, {count:,} clips; percent right, of")
  for text, right in lines:
    print(f"{text:50} {100 * right.mean():5.1f}  {len(right):5,}")


if __name__ == "__main__":
  app.run(main)

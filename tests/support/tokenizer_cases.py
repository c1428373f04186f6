"""Small vocabularies of every kind."""

import io

import clips
import sentencepiece

WORDPIECES = "[PAD] [UNK] [CLS] [MASK] [SEP] a red ball move ##s , ' don t cafe ##€ 5"


MERGES = "#version: 0.2\nr e\nre d</w>\nb a\nl l</w>\nba ll</w>\nm o\nmo v\n"


def bert(folder, pieces=WORDPIECES):
  return write(folder / "vocab.txt", "\n".join(pieces.split(" ")) + "\n")


def clip(folder, merges=MERGES):
  return write(folder / "merges.txt", merges)


def write(path, content):
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return str(path)


def trained_model(folder, **options):
  """A SentencePiece model with the special pieces of `options`."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter([clips.WORDS, "a ball, (a box) is here"] * 20),
    model_writer=model,
    vocab_size=48,
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  return write(folder / "spiece.model", model.getvalue())


def albert(folder):
  marks = ["[CLS]", "[SEP]", "[MASK]"]
  ids = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1)
  return trained_model(folder, control_symbols=marks, **ids)


def t5(folder):
  return trained_model(folder, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


MAKE = dict(bert=bert, clip=clip, albert=albert, siglip=t5)

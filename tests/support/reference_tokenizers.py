"""Token ids by transformers 5 of hard captions; writes tests/golden/tokenizers.json.

  pip install transformers sentencepiece protobuf
  python tests/support/reference_tokenizers.py ../shared/data/vocab

`test_tokenizer_kinds.py` compares with that file, and makes it again where transformers
can be imported. Special tokens that are spelled out in a caption are text here too
(`split_special_tokens`), but for ALBERT's <pad> and <unk>, which are left out.
"""

import gzip
import json
import pathlib
import random
import shutil
import sys
import tempfile

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "tokenizers.json"
FILES = dict(
  bert="bert-base-uncased-vocab.txt",
  clip="bpe_simple_vocab_16e6.txt.gz",
  albert="albert_30k_spiece.model",
  siglip="t5_layout_32000.model",
)
LENGTHS = (2, 7, 16)  # tokens, to which captions are cut

HARD = (
  "A red ball moves left, then up.",
  "don't can't won't it's we're I'm you'll he'd they've rock'n'roll 'S 'T",
  "ÀÉÎÕÜ àéîõü ñ ç ø å æ œ ß ẞ ł đ ı İ Ĳ ŉ ǅ Ωmega ΟΔΟΣ Привет мир",
  "e\u0301 n\u0303 a\u030a\u0301 o\u0323\u0302 q\u0307\u0323 Z\u0310\u0311\u0312algo",
  "한국어 조선말 \u1112\u1161\u11ab日本語のテキスト 中文字符 漢字",
  "カタカナ ｶﾀｶﾅ ひらがな が か\u3099 ー・「」、。",
  "mixed中english文word 3只猫 5匹のねこ ２０２４年",
  "\U00020000\U0002a6d6 rare 㐀 ideographs 々〆〇",
  "😀😂🤣 ok👍🏽 family 👨‍👩‍👧‍👦 flag 🇩🇪🏳️‍🌈 keycap 1️⃣ ☺️ ☺︎ ♥ ™ ©",
  "zero\u200bwidth\u200cnon\u200djoiner\ufeffbom\u2060word\u00adsoft",
  "نص عربي مَعَ تَشْكِيل ١٢٣ עִבְרִית \u202bנבו\u202c हिन्दी क्षि ไทยภาษา ខ្មែរ தமிழ்",
  "tab\tnewline\nreturn\rnbsp\u00a0em\u2003thin\u2009ideographic\u3000ls\u2028ps\u2029nel\x85end",
  "nul\x00bell\x07esc\x1b[31mred\x1b[0m del\x7f c1\x9f replacement\ufffd private\ue000",
  "!!! ??? ... …… -- — – ‒ _under_ #hash @at $5 €5 £5 ¥5 50% a+b=c <tag> |x| ~ ^ ` \\",
  "“double” ‘single’ «guillemets» „low“ ''two'' ``ticks'' \"straight\" 'quotes' ′ ″",
  "(a) [b] {c} well-known e.g. i.e. U.S.A. Mr. a.b.c 3.14 1,000,000 9, 12:30 5/6 10-20",
  "&amp; &lt;b&gt; &quot;x&quot; &#39;y&#39; &nbsp; &eacute; &amp;amp;",
  "<br/> <b>bold</b> <!-- no -->",
  "cafÃ© naÃ¯ve â€œmojibakeâ€\x9d Ã¼ber",
  "http://example.com/a?b=c&d=e#f user.name+tag@mail.example.org C:\\dir\\file.txt",
  "x" * 99 + " " + "y" * 100 + " " + "z" * 101 + " " + "ab" * 120,
  "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
  "ﬁne ﬂow ﬀ ½ ⅓ x² H₂O ℃ № Ⅷ ㎏ ﷺ ＦＵＬＬ ｗｉｄｔｈ 𝐛𝐨𝐥𝐝 𝒮𝒸𝓇 ⓒⓘⓡ",
  "UPPER lower MiXeD CamelCaseWord snake_case_word kebab-case-word ALLCAPS123abc",
  "0 00 007 1234567890 3.0e-8 0x1F 1st 2nd ２３ ४५ ٤٥ ½x",
  "[CLS] [SEP] [MASK] [PAD] [UNK] [unused1] <cls> <mask> <s> </s>",
  "<|startoftext|> a <|endoftext|> b <|mask|> c</w> ##d ▁e ▁▁f Ġg",
  "   leading and    inner   and trailing   ",
  "a", "!", "9", "é", "中", "👍", "#", "##", "▁", "'", "/", "\u200d", "…",
  "",
  " ",
  "\t\n\r",
  "\x00",
  "\u200b",
  "\ufeff",
  "\u3000",
  "\u0301",
  "...",
)  # fmt: skip


def captions() -> list[str]:
  """About 10,000 characters: the captions above, and random mixes of their words."""
  rng = random.Random(0)
  words = [w for line in HARD for w in line.split(" ") if w and len(w) < 60]
  found = [*HARD]
  while sum(map(len, found)) < 10_000:
    some = rng.choices(words, k=rng.randint(1, 14))
    between = rng.choices([" ", " ", " ", "", ", ", "  "], k=len(some))
    line = "".join(a + b for a, b in zip(some, between, strict=True))
    found.append(rng.choice([str, str, str.upper, str.title])(line))
  return found


def reference(folder: pathlib.Path) -> dict[str, dict]:
  """By kind: ids of full captions, and of captions truncated to each of `LENGTHS`."""
  texts, found = captions(), {}
  for kind, tokenizer in _tokenizers(folder).items():
    call = lambda text, tokenizer=tokenizer, **kwargs: tokenizer(
      text, split_special_tokens=True, **kwargs
    )["input_ids"]
    cut = {
      str(n): [call(text, truncation=True, max_length=n) for text in texts]
      for n in LENGTHS
    }
    found[kind] = dict(whole=[call(text) for text in texts], cut=cut)
  return found


def _tokenizers(folder: pathlib.Path) -> dict:
  import transformers
  from sentencepiece import sentencepiece_model_pb2

  found = {}
  with tempfile.TemporaryDirectory() as place:
    shutil.copy(folder / FILES["bert"], f"{place}/vocab.txt")
    shutil.copy(folder / FILES["siglip"], f"{place}/spiece.model")
    found["bert"] = transformers.BertTokenizer.from_pretrained(place)
    found["siglip"] = transformers.SiglipTokenizer(f"{place}/spiece.model")
  # Not from the file: that would make added tokens of the user-defined pieces.
  model = sentencepiece_model_pb2.ModelProto.FromString(
    (folder / FILES["albert"]).read_bytes()
  )
  found["albert"] = transformers.AlbertTokenizer(
    vocab=[(p.piece, p.score) for p in model.pieces],
    _spm_precompiled_charsmap=model.normalizer_spec.precompiled_charsmap,
  )
  with gzip.open(folder / FILES["clip"], "rt") as f:
    lines = f.read().split("\n")[1 : 49152 - 256 - 2 + 1]
  merges = [tuple(line.split()) for line in lines]
  letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
  letters = [chr(i) for i in letters + [256 + i for i in range(256 - len(letters))]]
  pieces = letters + [c + "</w>" for c in letters] + ["".join(m) for m in merges]
  pieces += ["<|startoftext|>", "<|endoftext|>"]
  vocab = {piece: i for i, piece in enumerate(pieces)}
  found["clip"] = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
  return found


if __name__ == "__main__":
  made = reference(pathlib.Path(sys.argv[1]))
  whole = {kind: ids["whole"] for kind, ids in made.items()}
  GOLDEN.write_text(json.dumps(dict(captions=captions(), ids=whole)) + "\n")

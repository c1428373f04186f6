"""Paths, Python names, config keys and commands that README and docs name exist.

The package is read as text and as syntax trees; of it, only the configs are imported.
"""

import ast
import difflib
import fnmatch
import functools
import importlib
import re
import textwrap

import pytest
from conftest import ROOT

PAGES = [
  ROOT / "README.md",
  ROOT / "CONTRIBUTING.md",
  *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = ("vtr_jax", "configs", "benchmarks")
SUFFIXES = (".py", ".md", ".sh", ".yaml", ".yml", ".toml", ".ipynb")
# Data and outputs: `train.json` is not a Python name.
DATA = re.compile(
  r"bin|csv|f16|f64|gz|html|jsonl?|md|mp4|np[yz]|parquet|pkl|png|pth?|py|safetensors|sh|"
  r"tar|toml|token|tsv|txt|webm|whl|ya?ml"
)
# What runs, indexes, other data sets and groups of metrics are called.
OUTPUTS = re.compile(
  r"(anisotropy|checkpoints|damaged|dumps|evaluations|features|figures|meta_?data|"
  r"pictures|probes|profile|tensorboard)/|(classes|study)\.md|tokenizer\.model"
)


# Reading a page.


def blocks(text: str) -> list[tuple[str, str]]:
  """(language, content) of each fenced block."""
  found = re.findall(r"^[ ]*```(\w*)[^\n]*\n(.*?)^[ ]*```", text, re.M | re.S)
  return [(language, textwrap.dedent(content)) for language, content in found]


def spans(text: str) -> list[str]:
  """Backticked pieces of the prose, each on one line."""
  prose = re.sub(r"^[ ]*```.*?^[ ]*```", "", text, flags=re.M | re.S)
  return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", prose)]


def shell(text: str) -> list[str]:
  """Command lines of spans and of bash blocks; continued lines are joined."""
  lines = list(spans(text))
  for language, content in blocks(text):
    if language in ("bash", "sh", "console", ""):
      lines += content.replace("\\\n", " ").splitlines()
  return [re.sub(r"(^|\s)#.*", "", line) for line in lines]


def is_placeholder(token: str) -> bool:
  """`<id>.webm`, `RUN/dumps/STEP`, `{train,val}.csv`."""
  parts = re.split(r"[/=:]", token)
  capital = any(re.fullmatch(r"[A-Z]{2,}[A-Z_]*|N", part) for part in parts)
  return bool(re.search(r"[<>{}$\[\]]|\.\.\.", token)) or capital


# Rule 1: paths.


def missing_paths(text: str) -> list[str]:
  shown = re.findall(r"```python\n# (\S+)", text)  # files that the page writes
  wrong = []
  for token in [s for s in spans(text) if " " not in s] + words(text):
    path, _, rest = token.partition(":")
    if is_placeholder(path) or path.startswith(("-", "/", ".venv")):
      continue
    if not re.fullmatch(r"[\w./*+-]+", path):
      continue
    path = path.removeprefix("./")
    if re.fullmatch(r"configs/\w+", path) and rest:  # a row of a table of runs
      path += ".py"
    is_path = "/" in path and path.endswith((*SUFFIXES, "/"))
    if not is_path and not path.endswith((".py", ".md", ".sh")):
      continue
    if path in shown or OUTPUTS.fullmatch(path) or path.split("/")[0] == "runs":
      continue
    if path.startswith("data/") and not path.endswith(".py"):
      continue
    if rest.startswith(":"):
      if not has_test(path, rest[1:]):
        wrong.append(f"`{token}`: no such test")
    elif not (exists(path) or (rest and exists(f"configs/{path}"))):
      wrong.append(f"`{token}`: no such path{hint(path)}")
    elif rest and not has_variant(path, rest):
      wrong.append(f"`{token}`: no such variant")
  return wrong


def words(text: str) -> list[str]:
  """Words of command lines that name a file of the project, or a recipe."""
  folders = "tests|docs|launch|configs|vtr_jax|benchmarks|colabs"
  pattern = rf"(?:^|[\s=])(?:\./)?((?:{folders})/[\w./*:,-]+)"
  lines = [line for line in shell(text) if " " in line]
  recipes = re.findall(r"--config=([a-z]\w*)(:[\w,]+)?(?=\s|$)", "\n".join(lines))
  found = [f"configs/{name}.py{variant}" for name, variant in recipes]
  return found + [w for line in lines for w in re.findall(pattern, line)]


def exists(path: str) -> bool:
  folders = (ROOT, ROOT / "vtr_jax", ROOT / "docs")
  return any(next(folder.glob(path), None) is not None for folder in folders)


def has_test(path: str, name: str) -> bool:
  """`tests/core/test_config.py::test_x`, or the file's name alone."""
  files = [f for f in (ROOT / "tests").rglob("*.py") if f"/{f}".endswith(f"/{path}")]
  name = name.split("[")[0]
  return any(re.search(rf"^def {name}\(", f.read_text(), re.M) for f in files)


def has_variant(path: str, variant: str) -> bool:
  found = [f for f in (path, f"configs/{path}") if (ROOT / f).is_file()]
  first = variant.split(",")[0]
  return any(re.search(rf"\b{first}\b", (ROOT / f).read_text()) for f in found)


def hint(path: str) -> str:
  name = path.rstrip("/").split("/")[-1]
  close = [p.relative_to(ROOT) for s in SOURCES for p in (ROOT / s).rglob(name)]
  return f"; did you mean {close[0]}?" if close else ""


# Rule 2: Python names.


class Module:
  """Top-level names of a file, from its syntax tree."""

  def __init__(self, name: str, tree: ast.Module):
    self.name, self.names, self.imports = name, {}, {}
    for node in ast.walk(tree):
      # Imports within functions too: `load` of a package may be lazy.
      if isinstance(node, ast.Import):
        for a in node.names:
          self.imports[a.asname or a.name.split(".")[0]] = (a.name, None)
      elif isinstance(node, ast.ImportFrom) and node.module:
        for a in node.names:
          self.imports[a.asname or a.name] = (node.module, a.name)
    self._collect(tree.body)

  def _collect(self, body: list[ast.stmt]) -> None:
    for node in body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef):
        self.names[node.name] = node
      elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for name in (n for t in targets for n in ast.walk(t)):
          if isinstance(name, ast.Name):
            self.names[name.id] = node
      elif isinstance(node, ast.If | ast.Try | ast.With):
        self._collect([*node.body, *getattr(node, "orelse", [])])

  def resolve(self, name: str) -> "tuple[Module, ast.ClassDef] | None":
    """A class by its name in this file, imported or not."""
    if isinstance(node := self.names.get(name), ast.ClassDef):
      return self, node
    module, original = self.imports.get(name, ("", None))
    other = modules().get(module)
    return other.resolve(original) if other and original else None


@functools.cache
def modules() -> dict[str, Module]:
  """Dotted name -> module."""
  found = {}
  for path in (p for s in SOURCES for p in (ROOT / s).rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    found[name] = Module(name, ast.parse(path.read_text()))
    if parts[0] == "configs":  # a link in the package
      found[f"vtr_jax.{name}"] = found[name]
  return found


def class_of(module: Module, node: ast.expr) -> tuple[Module, ast.ClassDef] | None:
  """The class that `Name` or `module.Name` means in `module`."""
  if isinstance(node, ast.Name):
    return module.resolve(node.id)
  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
    source, original = module.imports.get(node.value.id, ("", None))
    other = modules().get(f"{source}.{original}" if original else source)
    return other.resolve(node.attr) if other else None
  return None


def fields(module: Module, node: ast.ClassDef) -> dict[str, tuple[Module, ast.expr]]:
  """Annotated names of a class and of its bases, with their annotations."""
  found = {}
  for base in node.bases:
    if parent := class_of(module, base):
      found |= fields(*parent)
  for item in node.body:
    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
      found[item.target.id] = module, item.annotation
  return found


def members(module: Module, node: ast.ClassDef) -> set[str]:
  found = set(fields(module, node))
  for base in node.bases:
    if parent := class_of(module, base):
      found |= members(*parent)
  for item in node.body:
    if isinstance(item, ast.FunctionDef):
      found.add(item.name)
    elif isinstance(item, ast.Assign):
      found |= {t.id for t in item.targets if isinstance(t, ast.Name)}
  for item in ast.walk(node):
    if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store):
      found.add(item.attr)  # self.x = ...
  return found


def attribute(module: Module, rest: list[str]) -> bool:
  """Whether `module.rest` exists."""
  if not rest:
    return True
  head, *tail = rest
  if (inner := modules().get(f"{module.name}.{head}")) and attribute(inner, tail):
    return True
  if node := module.names.get(head):
    is_class = isinstance(node, ast.ClassDef)
    return not tail or not is_class or tail[0] in members(module, node)
  source, original = module.imports.get(head, ("", None))
  if original and (other := modules().get(source)) and other is not module:
    return attribute(other, [original, *tail])
  # `model.embed_text` in the docs is a method of the class `Model` in model.py.
  instance = module.names.get(module.name.split(".")[-1].capitalize())
  return isinstance(instance, ast.ClassDef) and head in members(module, instance)


@functools.cache
def classes() -> dict[str, list[tuple[Module, ast.ClassDef]]]:
  found: dict[str, list] = {}
  for module in modules().values():
    for name, node in module.names.items():
      if isinstance(node, ast.ClassDef):
        found.setdefault(name, []).append((module, node))
  return found


def starts(head: str) -> list[Module]:
  """Modules that `head` may mean."""
  return [m for name, m in modules().items() if name.split(".")[-1] == head]


def missing_names(text: str) -> list[str]:
  """Dotted names: a module's, a class's, or a config key."""
  wrong = []
  for span in spans(text):
    found = re.match(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?=$|[\[( =])", span)
    if not found:
      continue
    parts = found[1].split(".")
    if DATA.fullmatch(parts[-1]) or OUTPUTS.fullmatch(found[1]):
      continue
    head, *rest = parts
    candidates, owners = starts(head), classes().get(head, [])
    is_key = head == "config" or head in sections()
    if not (candidates or owners or is_key):
      continue  # another library's
    if any(attribute(m, rest) for m in candidates):
      continue
    if any(rest[0] in members(*owner) for owner in owners):
      continue
    if is_key and has_key(parts):
      continue
    wrong.append(f"`{span}`: no such name or config key{nearest(parts)}")
  return wrong


# Rule 3: config keys.


@functools.cache
def keys() -> frozenset[tuple[str, ...]]:
  """Paths of all keys: of the configs, and of the dataclasses that read them."""
  found: set[tuple[str, ...]] = set()

  def values(section, path=()) -> None:
    for key, value in section.items():
      found.add((*path, key))
      if isinstance(value, dict):
        values(value, (*path, key))

  def declared(module: Module, node: ast.ClassDef, path=()) -> None:
    for name, (where, annotation) in fields(module, node).items():
      found.add((*path, name))
      for part in ast.walk(annotation):
        inner = class_of(where, part) if isinstance(part, ast.expr) else None
        if inner and len(path) < 5:
          declared(*inner, (*path, name))

  for name in ("mac", "simvtp", "miles"):
    values(importlib.import_module(f"configs.{name}").get_config().to_dict())
  for name, module in modules().items():
    node = module.names.get("Config")
    if isinstance(node, ast.ClassDef) and name.startswith("vtr_jax.objectives."):
      declared(module, node, ("objective",))
    if isinstance(node, ast.ClassDef) and name.startswith("vtr_jax.eval.evaluators."):
      declared(module, node, ("evals", "*"))
  for name in ("TrainConfig", "StudyConfig"):
    for owner in classes()[name]:
      declared(*owner)
  return frozenset(found)


@functools.cache
def sections() -> set[str]:
  return {part for path in keys() for part in path[:-1]} - {"*"}


def has_key(parts: list[str]) -> bool:
  """`optim.lr`, `compute.remat`; from the root if it starts with `config`."""
  full = parts[0] == "config"
  parts = parts[full:]
  ends = (
    p for p in keys() if len(p) == len(parts) or (not full and len(p) > len(parts))
  )
  return any(
    all(fnmatch.fnmatchcase(a, b) for a, b in zip(parts, p[-len(parts) :], strict=True))
    for p in ends
  )


def nearest(parts: list[str]) -> str:
  known = {".".join(path[-2:]) for path in keys()}
  known |= {f"{m.name.split('.')[-1]}.{n}" for m in modules().values() for n in m.names}
  close = difflib.get_close_matches(".".join(parts[-2:]), sorted(known), 1)
  return f"; did you mean {close[0]}?" if close else ""


@functools.cache
def vocabulary() -> tuple[set[str], set[str]]:
  """(keys, arguments and fields; string constants) of package and configs."""
  names, strings = {path[-1] for path in keys()}, set()
  for path in (p for s in ("vtr_jax", "configs") for p in (ROOT / s).rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.arg | ast.keyword):
        names.add(node.arg or "")
      elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        names.add(node.target.id)
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        strings.add(node.value)
  return names, strings


def missing_keys(text: str) -> list[str]:
  """`--config.a.b`, `key="value"` and `a.b = "value"`."""
  wrong = []
  for line in shell(text):
    for key in re.findall(r"--config\.([\w.]+)", line):
      if not has_key(["config", *key.split(".")]):
        wrong.append(f"`--config.{key}`: no such key{nearest(key.split('.'))}")
  names, strings = vocabulary()
  for span in spans(text):
    found = re.fullmatch(r'([\w.]+) ?= ?"([^"]*)"', span)
    if not found:
      continue
    if found[1].split(".")[-1] not in names:
      wrong.append(f"`{span}`: no such key or argument")
    elif found[2] not in strings and not is_placeholder(found[2]):
      wrong.append(f"`{span}`: no such value")
  return wrong


# Rule 4: commands and their flags.


def source(*names: str) -> str:
  """Text of the project's files and folders."""
  files = []
  for name in names:
    path = ROOT / name
    files += [path] if path.is_file() else sorted([*path.rglob("*.py")])
  return "\n".join(f.read_text() for f in files)


def command_text(module: str) -> str | None:
  """What defines the flags of `python -m module`; None if there is no such command."""
  path = module.replace(".", "/")
  if (ROOT / path / "__main__.py").is_file():
    return source(path, "vtr_jax/core/cli.py")
  if (ROOT / f"{path}.py").is_file():
    return source(f"{path}.py", "vtr_jax/core/cli.py")
  return None


@functools.cache
def all_commands() -> str:
  scripts = "\n".join(p.read_text() for p in (ROOT / "launch").glob("*.sh"))
  return source("vtr_jax", "benchmarks", "tests") + scripts


def missing_commands(text: str) -> list[str]:
  wrong = []
  for line in shell(text):
    for command in re.split(r"&&|\|\||;", line):
      command = re.sub(r"^\s*vtr-jax ([a-z]+)", r"python -m vtr_jax.\1", command)
      if found := re.search(r"python3? -m ((?:vtr_jax|benchmarks)[\w.]*)(.*)", command):
        module, flags = found.groups()
        known = command_text(module)
        if known is None:
          wrong.append(f"`python -m {module}`: no such command")
          continue
      elif found := re.search(r"(launch/\w+\.sh)(.*)", command):
        module, flags = found.groups()
        scripts = "\n".join(p.read_text() for p in (ROOT / "launch").glob("*.sh"))
        known = scripts + source("vtr_jax/main.py", "vtr_jax/core/cli.py")
      elif command.strip().startswith("--"):
        module, flags, known = "any command", " " + command.strip(), all_commands()
      else:
        continue
      for flag in re.findall(r"(?<=\s)--([a-z]\w*)(?![\w.])", flags):
        plain = {flag, flag.removeprefix("no")}
        if flag != "config" and not any(re.search(rf"\b{f}\b", known) for f in plain):
          wrong.append(f"`--{flag}`: not a flag of {module}")
  return wrong


RULES = (missing_paths, missing_names, missing_keys, missing_commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_everything_that_a_page_names_exists(page):
  text = page.read_text()
  wrong = [message for rule in RULES for message in rule(text)]
  assert not wrong, "\n" + "\n".join(dict.fromkeys(wrong))


GOOD = """
`vtr_jax.load`, `batch.spec`, `data/masks.py`, `configs/mac.py:smoke`, `docs/data.md`,
`core/`, `runs/mine/`, `RUN/config.py`, `<id>.py`, `optim.lr`, `config.optim.lr=1e-3`,
`optim.schedule="cosine"`, `compute.remat`, `evals.test.ties`, `model.embed_text`,
`train.json`, `os.path`, `--config.optim.lr=1e-4`, `python -m vtr_jax.main --workdir=a`,
`test_references.py::test_valid_references_are_accepted`

```bash
python -m vtr_jax.main --config=configs/mac.py:smoke \\
  --config.optim.lr=1e-4
./launch/test.sh tests/contract/test_references.py
vtr-jax main --config=mac:smoke --workdir=a
```
"""


@pytest.mark.parametrize("rule", RULES)
def test_valid_references_are_accepted(rule):
  assert rule(GOOD) == []


@pytest.mark.parametrize(
  ("rule", "bad"),
  [
    (missing_paths, "`data/no_such.py`"),
    (missing_paths, "`no_such/`"),
    (missing_paths, "`docs/no_such.md`"),
    (missing_paths, "`configs/no_such.py:smoke`"),
    (missing_paths, "`configs/mac.py:no_such`"),
    (missing_paths, "`configs/mac:no_such`"),
    (missing_paths, "`test_references.py::test_no_such`"),
    (missing_paths, "`python -m pytest tests/no_such.py`"),
    (missing_paths, "```bash\npython -m vtr_jax.main --config=configs/no.py\n```"),
    (missing_paths, "`vtr-jax main --config=no_such:smoke`"),
    (missing_paths, "`vtr-jax main --config=mac:no_such`"),
    (missing_names, "`batch.no_such`"),
    (missing_names, "`vtr_jax.no_such`"),
    (missing_names, "`vtr_jax.core.batch.no_such`"),
    (missing_names, "`SimVTP.no_such(x)`"),
    (missing_names, "`model.no_such`"),
    (missing_names, "`optim.no_such=1`"),
    (missing_names, "`config.objective.no_such`"),
    (missing_names, "`config.lr`"),  # is a key, of a section
    (missing_keys, '`no_such="drop"`'),
    (missing_keys, '`optim.schedule = "no such"`'),
    (missing_keys, "`--config.optim.no_such=1`"),
    (missing_keys, "```bash\npython -m vtr_jax.main \\\n  --config.no_such=1\n```"),
    (missing_commands, "`python -m vtr_jax.no_such`"),
    (missing_commands, "`python -m vtr_jax.core`"),
    (missing_commands, "```bash\nX=1 python -m benchmarks.no_such --a=1\n```"),
    (missing_commands, "`python -m vtr_jax.main --no_such=1`"),
    (missing_commands, "`vtr-jax train`"),
    (missing_commands, "`vtr-jax main --no_such=1`"),
    (missing_commands, "`./launch/slurm.sh --no_such_flag`"),
  ],
)
def test_invalid_references_are_reported(rule, bad):
  assert len(set(rule(bad))) == 1


def test_the_api_reference_has_every_module():
  """A page for each folder; `docs/reference/commands.md` for the rest."""
  for path in sorted((ROOT / "vtr_jax").rglob("*.py")):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if not path.read_text().strip():
      continue  # an empty __init__.py
    is_command = len(parts) == 2 or parts[-1] == "__main__"
    page = ROOT / "docs" / "reference" / f"{'commands' if is_command else parts[1]}.md"
    line = f"::: {'.'.join(parts).removesuffix('.__init__')}"
    assert line in page.read_text().splitlines(), f"add {line!r} to {page.name}"
  listed = re.findall(
    r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in page.parent.glob("*.md")), re.M
  )
  assert sorted(set(listed) - set(modules())) == []
  assert len(listed) == len(set(listed))

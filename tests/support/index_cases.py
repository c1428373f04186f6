"""A header and files of a small search index."""

from vtr_jax.search.store import File, Header

HEADER = Header("model@1-ab", "", 4, "/", 10.0, 0.0, False)


def file(path, **changes):
  return File(path, 10, 20, f"digest of {path}", 0, 0)._replace(**changes)

"""One file per objective; each offers `Config` and `build`. See base.py."""

"""Evaluators that run during training; see base.py."""

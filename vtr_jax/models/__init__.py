"""Linen modules; they return arrays, never losses."""

"""Temporal grounding: the part of a video that a sentence describes."""

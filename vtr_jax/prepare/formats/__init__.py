"""Annotation files of others: one file a format, each to the same items."""

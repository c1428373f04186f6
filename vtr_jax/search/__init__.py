"""Search over a folder of videos: an index of its clips on disk, and queries."""

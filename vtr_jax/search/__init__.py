"""Search over folders of videos: index, query, serve."""

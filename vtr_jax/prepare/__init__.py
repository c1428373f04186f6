"""Videos and images with annotations, made into checked shards."""

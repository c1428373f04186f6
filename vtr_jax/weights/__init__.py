"""Public weights: read without running code, matched key by key, written again."""

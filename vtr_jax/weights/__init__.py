"""Public weights: read without running code, matched key by key, and exported."""

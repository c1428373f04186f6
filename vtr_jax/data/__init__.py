"""Host side: files to NumPy batches. Never touches a JAX device."""

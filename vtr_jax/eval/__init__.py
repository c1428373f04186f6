"""Numbers from scores: NumPy on the host, whichever model made them."""

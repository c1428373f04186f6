"""Evaluation: metrics of embeddings and scores in NumPy, evaluators, figures."""

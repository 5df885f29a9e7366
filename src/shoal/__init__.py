"""Shoal: a federated-learning engine."""

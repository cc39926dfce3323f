"""Flower adapters: the only package that imports flwr."""

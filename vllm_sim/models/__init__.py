"""Configurations of well-known open models, and the folders that are made of them."""

"""Figures and the page, made from rows and nothing else."""

"""Grids of runs: what runs, where its rows go, what they add up to."""

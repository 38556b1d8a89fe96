"""Sweeps, the rows they write, and what is drawn from them. This file itself imports nothing."""

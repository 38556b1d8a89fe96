"""Replay of traces: the backends, and the rows that they write. This file itself imports nothing."""

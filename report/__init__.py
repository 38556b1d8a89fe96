"""The technical report: `python -m report --pdf report.pdf` and `--check`."""

"""Parts of the benchmark `id_quality.py`."""

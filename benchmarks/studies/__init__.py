"""Parts of `id_studies.py`: what is run, the runs and their rows, tables and figures."""

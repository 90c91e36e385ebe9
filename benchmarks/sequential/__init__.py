"""What `sequential_rivals.py` measures: recommenders that read a history as a sequence of items, from libraries."""

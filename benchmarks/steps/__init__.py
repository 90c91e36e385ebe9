"""Parts of `benchmarks/training_step.py`."""

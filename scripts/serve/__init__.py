"""The checks of `scripts/serve.py`."""

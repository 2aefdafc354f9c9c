"""The other sides of kinglet's doors: real consumers and producers of models, each in an environment of its own.

`scripts/doors.py` is the program. A module that imports packages runs as a process of its own, `python -m scripts.doors.NAME`, in the
environment that `environments.py` makes for it; the rest needs only Python 3.11.
"""

"""The modules of scripts/cluster.py."""

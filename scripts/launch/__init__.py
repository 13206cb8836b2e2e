"""Launchers: runs as jobs of Slurm or tasks of Ray, where `scripts/run/pool.py` has them on this machine."""

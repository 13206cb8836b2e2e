"""Slippery humanoid, in MuJoCo on the CPU."""

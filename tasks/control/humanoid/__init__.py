"""Slippery humanoid in two physics engines: MuJoCo and MuJoCo Warp."""

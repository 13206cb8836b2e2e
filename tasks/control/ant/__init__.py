"""Slippery-Ant in three physics engines: Bullet, MuJoCo and MuJoCo Warp."""

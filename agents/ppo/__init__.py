"""Proximal policy optimization (Schulman et al., 2017), for one agent and for stacked agents."""

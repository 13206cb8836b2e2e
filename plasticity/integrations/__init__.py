"""Callbacks for other training loops, each in a module of the loop's name, which imports it.

- `plasticity.integrations.hugging_face`: for the Trainer of transformers; the extra `transformers`.
- `plasticity.integrations.lightning`: for Lightning; the extra `lightning`.
- `plasticity.sb3`: for Stable-Baselines3.
"""

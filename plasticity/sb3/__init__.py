"""Stable-Baselines3 integration: `policy_kwargs` for any of its algorithms, and callbacks.

>>> from plasticity.sb3 import PlasticityCallback, policy_kwargs
>>> kwargs = policy_kwargs(PPO, regularizer="syre", strength=1e-3, sigma=0.3)
>>> model = PPO("MlpPolicy", env, policy_kwargs=kwargs)
>>> model.learn(1_000_000, callback=PlasticityCallback(every=10_000))

With any mitigations, which continue when the model is loaded and learns with them again:

>>> model = PPO("MlpPolicy", env)
>>> model.learn(1_000_000, callback=MitigationCallback(ReDo(), Syre(strength=1e-3, sigma=0.3)))

To continue with a model that was saved without this package:

>>> model = load(PPO, "plain.zip", env=env, regularizer="syre", strength=1e-3, sigma=0.3)
"""

from plasticity.sb3.callback import PlasticityCallback
from plasticity.sb3.mitigations import MitigationCallback
from plasticity.sb3.policies import load, policy_kwargs

__all__ = ["MitigationCallback", "PlasticityCallback", "load", "policy_kwargs"]

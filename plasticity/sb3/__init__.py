"""The plug into Stable-Baselines3: `policy_kwargs` for any of its algorithms, and the callback.

>>> from plasticity.sb3 import PlasticityCallback, policy_kwargs
>>> kwargs = policy_kwargs(PPO, regularizer="syre", strength=1e-3, sigma=0.3)
>>> model = PPO("MlpPolicy", env, policy_kwargs=kwargs)
>>> model.learn(1_000_000, callback=PlasticityCallback(every=10_000))

A model that was saved without any of this goes on with it:

>>> model = load(PPO, "plain.zip", env=env, regularizer="syre", strength=1e-3, sigma=0.3)
"""

from plasticity.sb3.callback import PlasticityCallback
from plasticity.sb3.policies import load, policy_kwargs

__all__ = ["PlasticityCallback", "load", "policy_kwargs"]

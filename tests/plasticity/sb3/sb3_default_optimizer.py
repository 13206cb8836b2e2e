"""Pytest plugin that makes a syre-regularized optimizer the default of Stable-Baselines3's policies.

`test_own_suite.py` runs Stable-Baselines3's own tests with it.
"""

import functools
import inspect

from stable_baselines3.common.policies import BaseModel

from plasticity.optim.optimizer import RegularizedOptimizer
from plasticity.sb3.optimizer import policy_optimizer

SETTINGS = {
    "actor": {"regularizer": "syre", "strength": 1e-2, "sigma": 0.3},
    "critic": {"regularizer": "syre", "strength": 1e-3, "sigma": 0.3},
}

built = []


def pytest_configure(config):
    original = BaseModel.__init__
    signature = inspect.signature(original)

    @functools.wraps(original)
    def with_our_optimizer(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        # A loaded policy has it already.
        if not issubclass(given["optimizer_class"], RegularizedOptimizer):
            given["optimizer_class"] = policy_optimizer(given["optimizer_class"])
            given["optimizer_kwargs"] = {**(given["optimizer_kwargs"] or {}), **SETTINGS}
        built.append(given["optimizer_class"].__name__)
        original(*bound.args, **bound.kwargs)

    BaseModel.__init__ = with_our_optimizer


def pytest_terminal_summary(terminalreporter):
    names = ", ".join(sorted(set(built)))
    terminalreporter.write_line(f"networks made: {len(built)}, with {names}")

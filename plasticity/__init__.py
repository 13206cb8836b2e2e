"""Keep networks plastic over many tasks: mitigations in any loop, regularized optimizers, measurements."""

from typing import Any

from plasticity import metrics, mitigations, optim, stacking, symmetry, units
from plasticity.metrics import *  # noqa: F403  (each sub-package lists its public names)
from plasticity.mitigations.attach import Attached, attach
from plasticity.optim import *  # noqa: F403
from plasticity.stacking import *  # noqa: F403
from plasticity.symmetry import *  # noqa: F403
from plasticity.units import *  # noqa: F403

__all__: list[str] = ["Attached", "attach"]
__all__ += metrics.__all__
__all__ += optim.__all__
__all__ += stacking.__all__
__all__ += symmetry.__all__
__all__ += units.__all__


def __getattr__(name: str) -> Any:
    """Return a mitigation, by the name of its class: `from plasticity import ReDo`."""
    found = vars(mitigations).get(name)
    if isinstance(found, type) and issubclass(found, mitigations.Mitigation):
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

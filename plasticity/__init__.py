"""Keep networks plastic over many tasks: mitigations in any loop, regularized optimizers, measurements."""

from plasticity import metrics, modules, optim, stacking, symmetry, units
from plasticity.metrics import *  # noqa: F403  (each sub-package lists its public names)
from plasticity.mitigations.attach import attach
from plasticity.mitigations.attached import Attached
from plasticity.mitigations.conversion import convert
from plasticity.modules import *  # noqa: F403
from plasticity.optim import *  # noqa: F403
from plasticity.stacking import *  # noqa: F403
from plasticity.symmetry import *  # noqa: F403
from plasticity.units import *  # noqa: F403

__all__: list[str] = ["Attached", "attach", "convert"]
__all__ += metrics.__all__
__all__ += modules.__all__
__all__ += optim.__all__
__all__ += stacking.__all__
__all__ += symmetry.__all__
__all__ += units.__all__

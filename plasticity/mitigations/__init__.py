"""Mitigations: ways to keep a network plastic, each a frozen dataclass of settings in a file of its own."""

from plasticity.mitigations.base import MITIGATIONS, PLAIN, Mitigation, mitigation
from plasticity.mitigations.method import (
    METHOD_SEPARATOR,
    PLAIN_METHOD,
    SeededMethod,
    method_name,
    mitigation_names,
    network_spec,
    regularizer_settings,
    require_compatible,
)

# A line for each mitigation, in the order in which lists and reports have them: the oldest, whose colours in
# reports are fixed, then the others by kind.
# isort: off
from plasticity.mitigations.weight_decay import WeightDecay as WeightDecay
from plasticity.mitigations.syre import Syre as Syre
from plasticity.mitigations.l2_init import L2Init as L2Init
from plasticity.mitigations.shift import Shift as Shift
from plasticity.mitigations.redo import ReDo as ReDo
from plasticity.mitigations.snr import SNR as SNR
from plasticity.mitigations.parseval import Parseval as Parseval
from plasticity.mitigations.spectral import Spectral as Spectral
from plasticity.mitigations.wasserstein import Wasserstein as Wasserstein
from plasticity.mitigations.isometry import Isometry as Isometry
from plasticity.mitigations.effective_rank import EffectiveRank as EffectiveRank
from plasticity.mitigations.churn import Churn as Churn
from plasticity.mitigations.infer import InFeR as InFeR
from plasticity.mitigations.proximal_features import ProximalFeatures as ProximalFeatures
from plasticity.mitigations.continual_backprop import ContinualBackprop as ContinualBackprop
from plasticity.mitigations.regrama import ReGraMa as ReGraMa
from plasticity.mitigations.cpr import CPR as CPR
from plasticity.mitigations.plasticity_injection import PlasticityInjection as PlasticityInjection
from plasticity.mitigations.shrink_perturb import ShrinkPerturb as ShrinkPerturb
from plasticity.mitigations.weight_noise import WeightNoise as WeightNoise
from plasticity.mitigations.head_reset import HeadReset as HeadReset
from plasticity.mitigations.layer_reset import LayerReset as LayerReset
from plasticity.mitigations.full_reset import FullReset as FullReset
from plasticity.mitigations.optimizer_reset import OptimizerReset as OptimizerReset
from plasticity.mitigations.swr import SWR as SWR
from plasticity.mitigations.hare_tortoise import HareTortoise as HareTortoise
from plasticity.mitigations.dash import DASH as DASH
from plasticity.mitigations.fire import FIRE as FIRE
from plasticity.mitigations.weight_clipping import WeightClipping as WeightClipping
from plasticity.mitigations.norm_projection import NormProjection as NormProjection
from plasticity.mitigations.nap import NaP as NaP
from plasticity.mitigations.layer_norm import LayerNorm as LayerNorm
from plasticity.mitigations.crelu import CReLU as CReLU
from plasticity.mitigations.fourier_features import FourierFeatures as FourierFeatures
from plasticity.mitigations.leaky_relu import LeakyReLU as LeakyReLU
from plasticity.mitigations.smooth_leaky_relu import SmoothLeakyReLU as SmoothLeakyReLU
from plasticity.mitigations.randomized_leaky_relu import RandomizedLeakyReLU as RandomizedLeakyReLU
from plasticity.mitigations.hyperspherical import Hyperspherical as Hyperspherical
from plasticity.mitigations.w_asymmetric import WAsymmetric as WAsymmetric
from plasticity.mitigations.sigma_asymmetric import SigmaAsymmetric as SigmaAsymmetric
from plasticity.mitigations.dropout import Dropout as Dropout
from plasticity.mitigations.w_fix import WFix as WFix
from plasticity.mitigations.upgd import UPGD as UPGD
from plasticity.mitigations.trac import TRAC as TRAC
# isort: on

__all__ = [
    "METHOD_SEPARATOR",
    "MITIGATIONS",
    "PLAIN",
    "PLAIN_METHOD",
    "Mitigation",
    "SeededMethod",
    "method_name",
    "mitigation",
    "mitigation_names",
    "network_spec",
    "regularizer_settings",
    "require_compatible",
]

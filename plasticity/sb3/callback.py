"""Measure the plasticity of a Stable-Baselines3 model while it trains, without disturbing it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy

from plasticity.checks import require_integer
from plasticity.containers import mapped
from plasticity.metrics.dormancy import dead_fraction
from plasticity.metrics.registry import (
    DEFAULT_METRICS,
    METRICS,
    Metric,
    metric_key,
    require_policy_metrics,
    resolved_metrics,
)
from plasticity.metrics.row_file import RowFile, made_again
from plasticity.metrics.tracker import Tracker
from plasticity.mitigations.base import Mitigation
from plasticity.sb3.gradients import StepGradients
from plasticity.sb3.logging import PROBE, log_row
from plasticity.sb3.mitigations import MitigationCallback
from plasticity.sb3.networks import PolicyNetworks, policy_networks
from plasticity.sb3.observations import RecentInputs
from plasticity.sb3.tasks import TaskFollower
from plasticity.wrappers import unwrapped

__all__ = ["PlasticityCallback"]

Row = dict[str, Any]

_SATURATED = "dead_fraction of saturating layers"


class PlasticityCallback(BaseCallback):
    """Callback that tracks ranks, dead and dormant units and norms of all hidden layers of actor and critic.

    ::

        callback = PlasticityCallback(every=10_000, path="plasticity.jsonl")
        model.learn(1_000_000, callback=callback)
        print(callback.rows[-1]["effective_rank/actor.1"])

    Supports PPO, A2C, DQN, SAC, TD3 and DDPG, and sb3-contrib's TQC, TRPO, RecurrentPPO, MaskablePPO, QRDQN
    and CrossQ, with any vector environment and wrapper. Layer names are those of `PolicyNetworks`.

    **Measuring does not change training**: the weights are the same, bit for bit, with and without it. No
    random numbers are drawn from torch, NumPy, Python or a space; training flags, buffers and gradients are
    left as they were.

    **When it measures**: at each multiple of `every` environment steps (summed over all environments; if
    a multiple is passed within a vector step, at that step), counted from the model's first step, also
    after loading; at each task boundary, where ``info["task"]`` changes (an integer or a name; with several
    environments, the first change counts); and, for on-policy algorithms, once before the first update. A
    row at a boundary describes the task that ended. A new task appears in the ``info`` of its first step,
    so an off-policy algorithm may have made one more update by then.

    **On which observations it measures**: on the latest observations and on a fixed probe batch, both as
    the policy sees them (normalised, stacked). The latest are `probe_size` observations, spread evenly over
    as many steps as a rollout has (on-policy), or over the last `every` steps (off-policy; further back if
    that is fewer than `probe_size`). The probe batch is the batch of the first row, unless one is given.
    The critics of SAC and similar algorithms see the actions that were taken (on a given batch, the actor's
    actions at the start). LSTMs start from the states that they had (on a given batch, from zero). Until
    there are `probe_size` observations, rows are made only at boundaries, without measurements; if training
    ends without any measurement, a warning says why.

    **Where the rows go**: to `rows`; to the file `path`; and to the outputs of SB3's logger, under
    ``plasticity/`` (latest) and ``plasticity_probe/`` (fixed), each row immediately, at its own step and
    separate from SB3's. The console table, which is narrow, shows one number per metric on the latest
    observations under ``plasticity_mean/``: the mean over the layers, or the total for norms of parameters.

    ``dead_fraction`` depends on a layer's activation: for the ReLU family it counts units that are 0 on
    every observation, for all others, such as SB3's default tanh, units that hardly vary (`dead_units` with
    ``saturating=True``). ``gradient_norm`` is the norm in the last minibatch as the optimizer step received
    it: after clipping (``max_grad_norm``, 0.5 in PPO), for the critic without the actor's loss, and without
    parameters that no optimizer updates (TRPO's actor); it costs a copy of the gradients in every update.
    ``update_norm`` is the distance moved since the previous row. If the network diverges, the row says so,
    with NaN for values that cannot be measured, and training continues.

    **Mitigations** act on the networks if some are given, as with `MitigationCallback`, which says how. What
    they count since the previous row (``reset_units/actor.0``) is in each row, and the networks are measured
    with their ``evaluation_parameters``.

    A second ``learn(…, reset_num_timesteps=False)`` continues with the same probe batch. The callback can be
    pickled (if its metrics can), without the model: after loading both in a new process, pass it to
    ``learn`` again. If a model continues from an earlier step, rows after that step are first removed from
    `rows` and from the file, as they will be made again (an untrained model empties the file);
    ``update_norm`` then starts over. If a trained model counts from 0 again, rows are added. Use a separate
    callback and file for each model.

    Args:
        every: Environment steps between measurements.
        metrics: Metrics as in `Tracker`: names in `METRICS`, and `Metric` objects (whose model is
            `PolicyNetworks`).
        layers: Layers as in `capture`: names in `PolicyNetworks`. None: every hidden layer.
        probe_size: Number of observations to measure on. It should exceed the number of units in the widest
            layer, as no rank can be larger than it.
        probe_batch: Fixed probe batch, in the form that ``model.predict`` takes, instead of the first
            observations.
        path: File of JSON lines to which rows are appended; created if missing, with its folder. Numbers
            that are not finite are written as null.
        task_key: Entry of ``info`` that holds the task; None for no task boundaries.
        mitigations: Mitigations that act on the networks while they learn, such as ``[ReDo()]``.
        info_keys: Further entries of ``info`` for the rows, numbers or strings, such as ``["friction"]``.
        verbose: 1 to print how many environment steps the `every` of a mitigation comes to.

    Raises:
        TypeError: if an argument has the wrong type; at the start of training, if the kind of policy is not
            known; during training, if a task is neither an integer nor a string.
        ValueError: if a number is out of range, a metric is unknown (the nearest is named) or not measured
            for policies ("churn", "hessian_rank"); at the start
            of training, if a layer is unknown or never runs, or `probe_batch` does not fit.
        OSError: if `path` cannot be written.

    Warns:
        UserWarning: at the end of training, if nothing was measured.

    Examples:
        >>> from stable_baselines3 import PPO
        >>> model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64)
        >>> callback = PlasticityCallback(every=64, probe_size=64, metrics=["effective_rank"])
        >>> model = model.learn(128, callback=callback)
        >>> "effective_rank/actor.1" in callback.rows[-1]
        True
    """

    rows: list[Row]
    """Measurements, one row each: ``step``, ``task`` (None if there is none), entries of `info_keys`,
    ``boundary``; ``episodes`` that ended since the previous row and had begun under its task, with their
    mean ``episode_return`` and ``episode_length`` (None without any, or without SB3's Monitor);
    ``metric/layer`` on the latest observations, ``probe/metric/layer`` on the fixed ones, as `metric_key`
    writes them; ``diverged``: whether a parameter or a feature is NaN or infinite."""

    def __init__(
        self,
        every: int = 10_000,
        metrics: Iterable[str | Metric] = DEFAULT_METRICS,
        layers: Sequence[str] | None = None,
        *,
        probe_size: int = 512,
        probe_batch: object = None,
        path: str | Path | None = None,
        task_key: str | None = "task",
        info_keys: Sequence[str] = (),
        mitigations: Sequence[Mitigation] = (),
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        self._mitigations = MitigationCallback(*mitigations, task_key=None, verbose=verbose)
        self.rows = []
        self.every = require_integer("every", every, minimum=1)
        self.probe_size = require_integer("probe_size", probe_size, minimum=2)
        chosen = resolved_metrics(metrics)
        require_policy_metrics(chosen)
        self._metrics = _with_saturation(chosen)
        self._layers = layers
        self._given_probe = probe_batch
        self._path = None if path is None else Path(path).absolute()
        self._file: RowFile | None = None
        self._open_file()  # fails here rather than after the first steps of training
        self._follower = TaskFollower(task_key, info_keys)
        self._probe: tuple[Any, ...] | None = None
        self._recent: RecentInputs | None = None
        self._gradients = StepGradients()
        self._observations: tuple[Any, ...] = ()
        self._last_step = 0
        self._has_measured = False
        self._tracker_state: dict[str, Any] | None = None
        self._networks: PolicyNetworks | None = None
        self._trackers: tuple[Tracker, Tracker | None]

    def measure(self) -> dict[str, float]:
        """Measure now, as for a row, without recording anything, for example after training.

        Returns:
            The numbers on the latest observations, by ``metric/layer``, and on the probe batch, by
            ``probe/metric/layer``.

        Raises:
            RuntimeError: if there are not yet `probe_size` observations, or training never started.
            ValueError: if the network has diverged.
        """
        if self._networks is None or self._recent is None or not self._recent.complete():
            raise RuntimeError(
                f"there are not yet probe_size={self.probe_size} observations to measure on: train first"
            )
        if self._probe is None:
            self._probe = self._recent.batch()
        fixed = self._trackers[1].measure(self._probe) if self._trackers[1] is not None else {}
        return self._joined(self._trackers[0].measure(self._recent.batch()), fixed)

    def _init_callback(self) -> None:
        self._mitigations.init_callback(self.model)

    def _on_training_start(self) -> None:
        self._attach(self.model.policy)
        if self._mitigations.mitigations:
            self._mitigations.on_training_start(self.locals, self.globals)
        if METRICS["gradient_norm"] in self._metrics:
            self._gradients.attach(self.model.policy)
        self._cut_back()
        num_envs = self.training_env.num_envs
        # SB3 resets the environments when it counts from 0, and after a load or set_env. Its latest
        # observation is then not one that was seen here.
        continues = any(self.model._last_obs is seen for seen in self._observations)
        self._follower.begin(num_envs, reset=not continues)
        if self._recent is None or self._recent.num_envs != num_envs:
            window = self.every
            if isinstance(self.model, OnPolicyAlgorithm):
                window = self.model.n_steps * num_envs
            self._recent = RecentInputs(self.probe_size, window, num_envs)

    def _cut_back(self) -> None:
        """Remove the rows that will be made again, if the model continues from before them."""
        step, self._last_step = self.num_timesteps, self.num_timesteps
        self._open_file()  # rows may have been written elsewhere in the meantime
        # A trained model counts from 0 again.
        if step == 0 and (self.rows or self.model._n_updates > 0):
            return
        if self._file is not None:
            self._file.remove(made_again(self._file.counts, step + 1, anew=step == 0))
        repeated = made_again([row["step"] for row in self.rows], step + 1, anew=step == 0)
        if repeated:
            del self.rows[repeated[0] :]
            self._tracker_state = None
            if self._networks is not None:
                self._trackers[0].load_state_dict({"previous": None, "before_step": None})

    def _open_file(self) -> None:
        if self._path is not None:
            self._file = RowFile(self._path, "step")

    def _attach(self, policy: BasePolicy) -> None:
        """Set up measuring of a policy, unless already done: loading weights keeps its modules."""
        policy = cast("BasePolicy", unwrapped(policy))
        if self._networks is None or self._networks.policy is not policy:
            networks = policy_networks(policy)
            example = networks.inputs(networks.observations_to_tensor(_twice(self.model._last_obs)))
            layers = networks.hidden_layers(example) if self._layers is None else self._layers
            self._gradients.detach()
            self._gradients = StepGradients()
            metrics = [self._with_step_gradients(metric) for metric in self._metrics]
            self._trackers = _trackers(networks, example, metrics, layers)
            self._networks = networks
            if self._tracker_state is not None:
                self._trackers[0].load_state_dict(self._tracker_state)
        if self._given_probe is not None and self._probe is None:
            batch = self._networks.observations_to_tensor(self._given_probe)
            self._probe = self._networks.inputs(batch)

    def _with_step_gradients(self, metric: Metric) -> Metric:
        if metric == METRICS["gradient_norm"]:
            return replace(metric, function=self._gradients.norm)
        return metric

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        # The second is the next observation; if a callback ends training here, SB3 keeps the first.
        self._observations = (self.model._last_obs, self.locals.get("new_obs"))
        new_task = self._follower.new_task(infos, self.locals["dones"])
        measured = False
        if new_task is not None:
            # Measured before the first observation of the new task joins the latest.
            measured = self._record(boundary=True)
            self._follower.change(new_task)
            self._mitigations.boundary(new_task)
        self._follower.follow_values(infos)
        assert self._recent is not None
        assert self._networks is not None
        if self._recent.wants_next():
            self._recent.keep(self._networks.latest_inputs(self.model, self.locals))
        due = self.num_timesteps // self.every > self._last_step // self.every
        self._last_step = self.num_timesteps
        if due and self._recent.complete() and not measured:
            self._record(boundary=False)
        return True

    def _on_rollout_start(self) -> None:
        self._mitigations.num_timesteps = self.num_timesteps
        self._mitigations.on_rollout_start()

    def _on_training_end(self) -> None:
        self._mitigations.on_training_end()
        self._gradients.detach()
        if not self._has_measured:
            warnings.warn(self._why_nothing(), UserWarning, stacklevel=2)

    def _why_nothing(self) -> str:
        assert self._recent is not None
        begin = f"PlasticityCallback measured nothing in training up to step {self.num_timesteps}"
        if not self._recent.complete():
            return (
                f"{begin}: it saw fewer than probe_size={self.probe_size} observations. Train for longer, or "
                "pass a smaller probe_size=."
            )
        return (
            f"{begin}: it measures at multiples of every={self.every} steps, and reached none after seeing "
            f"probe_size={self.probe_size} observations. Pass a smaller every=."
        )

    def _on_rollout_end(self) -> None:
        # A rollout of an off-policy algorithm has only a few steps, too few to choose a probe batch from.
        untrained = self.model._n_updates == 0 and isinstance(self.model, OnPolicyAlgorithm)
        assert self._recent is not None
        if untrained and not self.rows and self._recent.complete():
            self._record(boundary=False)

    def _record(self, *, boundary: bool) -> bool:
        """Make a row, and return whether it has measurements."""
        row: Row = {
            "step": self.num_timesteps,
            "task": self._follower.task,
            **self._follower.info_values,
            "boundary": boundary,
            **self._follower.take_episodes(),
        }
        with self._mitigations.evaluating():
            measured, diverged = self._measured()
        counts = self._mitigations.take_counts()
        row.update(measured | counts)
        row["diverged"] = diverged
        self._has_measured |= bool(measured)
        self.rows.append(row)
        log_row(self.logger, row, measured | counts)
        if self._file is not None:
            self._file.append(row)
        return bool(measured)

    def _measured(self) -> tuple[dict[str, float], bool]:
        """Return the numbers of a row (none without observations) and whether the network has diverged."""
        assert self._recent is not None
        assert self._networks is not None
        if not self._recent.complete():
            return {}, False
        batch = self._recent.batch()
        if self._probe is None:
            self._probe = batch
        values, diverged = self._trackers[0].take(batch)
        fixed: dict[str, float] = {}
        if self._trackers[1] is not None:
            fixed, diverged_there = self._trackers[1].take(self._probe)
            diverged = diverged or diverged_there
        return self._joined(values, fixed), diverged

    def _joined(self, latest: Mapping[str, float], fixed: Mapping[str, float]) -> dict[str, float]:
        values = self._dead_by_activation(latest)
        for key, value in self._dead_by_activation(fixed).items():
            values[PROBE + key] = value
        return values

    def _dead_by_activation(self, values: Mapping[str, float]) -> dict[str, float]:
        """Keep the form of `dead_fraction` that suits each layer, of the two measured."""
        assert self._networks is not None
        chosen = dict(values)
        for layer in self._trackers[0].layers:
            saturated = chosen.pop(metric_key(_SATURATED, layer), None)
            if saturated is not None and self._networks.saturates(layer):
                chosen[metric_key("dead_fraction", layer)] = saturated
        return chosen

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the model and everything tied to it, which `learn` sets again."""
        state = self.__dict__.copy()
        if self._networks is not None:
            state["_tracker_state"] = self._trackers[0].state_dict()
        for name in ("model", "_trackers"):
            state.pop(name, None)
        state.update(locals={}, globals={}, parent=None)
        state.update(_networks=None, _observations=(), _file=None)
        state["_gradients"] = StepGradients()
        return state


def _trackers(
    networks: PolicyNetworks,
    example: tuple[Any, ...],
    metrics: Sequence[Metric],
    layers: Sequence[str],
) -> tuple[Tracker, Tracker | None]:
    """Make trackers for the latest and for the fixed observations; only the first measures parameters."""
    features = [metric for metric in metrics if metric.kind == "features"]
    return (
        Tracker(networks, example, metrics, layers),
        Tracker(networks, example, features, layers) if features else None,
    )


def _with_saturation(metrics: Sequence[Metric]) -> list[Metric]:
    """Add the other form of `dead_fraction`, so that the suitable one can be chosen for each layer."""
    if METRICS["dead_fraction"] in metrics:
        function = partial(dead_fraction, saturating=True)
        return [*metrics, Metric(_SATURATED, function, "features")]
    return list(metrics)


def _twice(observations: Any) -> Any:
    """Repeat observations to a batch of at least two, to run the networks on before any steps are made."""
    return mapped(lambda each: np.concatenate([each, each]), observations)

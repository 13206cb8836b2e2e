"""Physics of many MuJoCo ants at once, in MuJoCo Warp, on a GPU or a CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from plasticity.tasks.control.ant.mujoco import FRAME_SKIP, load_ant
from plasticity.tasks.control.simulators import (
    SimulationError,
    import_simulator,
    standard_error_closed,
)

MOST_CONTACTS = 25
"""Largest possible number of contacts of an ant: two of each of its 12 capsules with the floor, one of its
torso."""

LEAST_FRICTION = 0.01
"""Smallest friction at which a step still agrees with MuJoCo's: the solver's stiffness grows with
1 / friction^2, and at 0.003 float32 has too few digits for it, so that ants are off by m/s."""

_ROWS_PER_CONTACT = 4
_JOINT_LIMITS = 8
_EVALUATIONS = 4


def load_modules() -> tuple[Any, Any, Any]:
    """Import and return the modules `mujoco`, `warp` and `mujoco_warp`.

    Raises:
        ModuleNotFoundError: if one is not installed.
    """
    remedy = "pip install 'plasticity[gpu]' (Python 3.11 or newer)"
    mujoco, warp, mujoco_warp = (
        import_simulator(name, "The Warp ant", remedy) for name in ("mujoco", "warp", "mujoco_warp")
    )
    # Otherwise Warp prints a line for every module it loads. Warnings and errors are still printed.
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)
    return mujoco, warp, mujoco_warp


def numbered_device(name: str | torch.device) -> torch.device:
    """Return a device with its index, so that it stays the same when the current device changes.

    Raises:
        ValueError: if it is neither the CPU nor a CUDA device, or CUDA is not available.
    """
    device = torch.device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'device must be "cpu" or a CUDA device: {str(device)!r}.')
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ValueError(f'{str(device)!r} is not available on this host: use device = "cpu".')
    number = torch.cuda.current_device() if str(device) == "cuda" else device.index
    return torch.device("cuda", number)


class AntWarpPhysics:
    """Model and data of many ants, each with its own friction, stepped five physics steps at a time.

    Args:
        num_envs: Number of ants.
        device: "cpu" or a CUDA device.
        max_contacts: Capacity for contacts, per ant on average, and for one ant's rows of constraints.
        refine: Whether contact forces are solved for twice, the second time from the first solution.

    Raises:
        ModuleNotFoundError: if MuJoCo, Warp or MuJoCo Warp is not installed.
        ValueError: if there is no such device.

    Attributes:
        model: `mujoco_warp.Model`; `geom_friction` has a row for each ant.
        data: `mujoco_warp.Data` of all ants.
        initial_qpos: Position of the ant before the noise of a reset, a Warp array.
    """

    def __init__(
        self,
        num_envs: int,
        device: str | torch.device,
        *,
        max_contacts: int = MOST_CONTACTS,
        refine: bool = True,
    ) -> None:
        mujoco, self.warp, self._mujoco_warp = load_modules()
        # Without a GPU, Warp's C code prints a message, which is useless to those who chose the CPU.
        with nullcontext() if torch.cuda.is_available() else standard_error_closed():
            self.warp.init()
        self.kernels = importlib.import_module("plasticity.tasks.control.ant.warp_kernels")
        self.device = device = numbered_device(device)
        self.num_envs = num_envs
        self.warp_device = self.warp.device_from_torch(device)
        self._max_contacts = max_contacts
        self.max_rows = _ROWS_PER_CONTACT * max_contacts + _JOINT_LIMITS
        host_model = load_ant()
        with self.warp.ScopedDevice(self.warp_device):
            self.model = self._mujoco_warp.put_model(
                host_model, batch_sizes={"geom_friction": num_envs}
            )
            self.data = self._mujoco_warp.make_data(
                host_model, num_envs, nconmax=max_contacts, njmax=self.max_rows
            )
            self.initial_qpos = self.warp.array(host_model.qpos0, dtype=float)
        options = self.model.opt
        options.warn_overflow = 0  # check() reports it
        if self.warp_device.is_cuda:
            options.graph_conditional = self.warp.is_conditional_graph_supported()
        self._needs = torch.zeros(2, dtype=torch.int32, device=device)
        self._capsule = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        self._refine = refine
        self._can_overflow = max_contacts < MOST_CONTACTS
        self._calls = {"contactfilter": 0, "control": 0}
        # Called in each of the 20 evaluations of a step: after collision detection, and before the solver.
        self.model.callback.contactfilter = self._align_contacts
        self.model.callback.control = self._before_solver
        if self.warp_device.is_cuda:
            torch.cuda.synchronize(device)  # any stream may be used next

    def tensor(self, array: Any) -> Tensor:
        """Return a Warp array as a tensor that shares its memory."""
        tensor: Tensor = self.warp.to_torch(array)
        return tensor

    def array(self, tensor: Tensor, dtype: Any = None) -> Any:
        """Return a tensor as a Warp array that shares its memory."""
        return self.warp.from_torch(tensor, dtype=dtype)

    def launch(self, kernel: Any, *arguments: Any, threads: int | None = None) -> None:
        """Run a kernel, with one thread for each ant, or another number of them."""
        threads = self.num_envs if threads is None else threads
        self.warp.launch(kernel, dim=threads, inputs=list(arguments), device=self.warp_device)

    def step(self) -> None:
        """Take five steps of 0.01 s, and compute the forces on bodies in the last one, as Gymnasium does."""
        for _ in range(FRAME_SKIP):
            self._mujoco_warp.step(self.model, self.data)
        self._mujoco_warp.rne_postconstraint(self.model, self.data)

    def require_callbacks(self) -> None:
        """Check, after the first step, that the corrections of MuJoCo Warp were called as often as expected.

        The corrections do no harm if MuJoCo Warp no longer needs them: contacts that are already aligned with
        their capsules, and a solution that is already exact, stay as they are.

        Raises:
            RuntimeError: if MuJoCo Warp calls back more or less often than version 4.0.0.
        """
        expected = FRAME_SKIP * _EVALUATIONS
        if any(number != expected for number in self._calls.values()):
            raise RuntimeError(
                f"MuJoCo Warp {self._mujoco_warp.__version__} calls back {self._calls} times in a step, but "
                f"{expected} each are needed for steps that agree with MuJoCo's: install mujoco-warp 4.0.0."
            )

    def _align_contacts(self, model: Any, data: Any) -> None:
        self._calls["contactfilter"] += 1
        contact = data.contact
        self.launch(
            self.kernels.align_contacts,
            data.nacon,
            contact.worldid,
            contact.geom,
            model.geom_type,
            data.geom_xmat,
            self._capsule,
            contact.frame,
            threads=data.naconmax,
        )

    def _before_solver(self, model: Any, data: Any) -> None:
        self._calls["control"] += 1
        if self._can_overflow:
            self.launch(
                self.kernels.note_needs,
                data.ncollision,
                data.nacon,
                data.nefc,
                self.array(self._needs),
            )
        if self._refine:
            # Newton's method updates its residual incrementally, which accumulates rounding errors: on
            # slippery ground up to 0.9 in the acceleration, as the solver's stiffness grows with
            # 1 / friction^2. Restarted at the solution, it ends after one iteration, within 4e-4.
            self._mujoco_warp.fwd_actuation(model, data)
            self._mujoco_warp.fwd_acceleration(model, data, factorize=True)
            self._mujoco_warp.solve(model, data)
            self.warp.copy(data.qacc_warmstart, data.qacc)

    def forget(self) -> None:
        """Clear the record of what did not fit, as it belongs to a previous state."""
        self._needs.zero_()
        self.tensor(self.data.overflow).zero_()

    def check(self) -> None:
        """Read the device's record, and raise an error if contacts did not fit; waits for the device.

        Raises:
            SimulationError: if contacts or rows of constraints did not fit and were left out.
        """
        contacts, rows = self._needs.tolist()
        flags = self._mujoco_warp.OverflowType
        kinds = flags.NEFC | flags.BROADPHASE | flags.NARROWPHASE
        overflow = self.tensor(self.data.overflow) & int(kinds)
        most = self.num_envs * self._max_contacts
        if contacts <= most and rows <= self.max_rows and not bool(overflow.any()):
            return
        raise SimulationError(
            f"The Warp ants ran out of capacity, and contacts were left out: max_contacts = "
            f"{self._max_contacts} allows {self.num_envs} ants {most} contacts in total, but {contacts} were "
            f"needed at once, and each ant {self.max_rows} rows of constraints, but one needed {rows}. Start "
            f"again with max_contacts = {MOST_CONTACTS}, the most that an ant can have, or from the last "
            "checkpoint."
        )

    def close(self) -> None:
        """Drop the model's callbacks, a reference cycle, so that memory is freed with the last reference.

        Waits for the device first: Warp frees memory without regard to torch's streams.
        """
        if self.warp_device.is_cuda:
            torch.cuda.synchronize(self.device)
        self.model.callback.contactfilter = self.model.callback.control = None


class Replay:
    """Work on a device that is recorded once, and replayed from then on without Python in between.

    On CUDA the recording is a CUDA graph. Warp's work runs on torch's current stream, so that Warp and torch
    see each other's results without waiting.

    Args:
        physics: Physics whose device does the work.
        work: Function that launches the kernels.
        record: Whether to record; the work must have been run before, so that all kernels are loaded.
    """

    def __init__(self, physics: AntWarpPhysics, work: Callable[[], None], *, record: bool) -> None:
        self._warp = physics.warp
        self._work = work
        self._device = physics.device
        self._warp_device = physics.warp_device
        self._streams: dict[int, Any] = {}
        self._graph: Any = None
        if record:
            if self._warp_device.is_cuda:
                torch.cuda.synchronize(self._device)
            with (
                self._warp.ScopedDevice(self._warp_device),
                self._warp.ScopedCapture(self._warp_device) as capture,
            ):
                work()
            self._graph = capture.graph

    def __call__(self) -> None:
        """Run the work."""
        stream = self._stream() if self._warp_device.is_cuda else None
        if self._graph is not None:
            # torch's default stream has the same handle on every device: the scope selects the device.
            with self._warp.ScopedDevice(self._warp_device):
                self._warp.capture_launch(self._graph, stream=stream)
            return
        with (
            self._warp.ScopedDevice(self._warp_device),
            self._warp.ScopedStream(stream, sync_enter=False),
        ):
            self._work()

    def _stream(self) -> Any:
        """Return torch's current stream as a Warp stream."""
        current = torch.cuda.current_stream(self._device)
        if current.cuda_stream not in self._streams:
            self._streams[current.cuda_stream] = self._warp.stream_from_torch(current)
        return self._streams[current.cuda_stream]

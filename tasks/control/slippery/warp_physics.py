"""Physics of many walkers at once, in MuJoCo Warp, on a GPU or a CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticity.tasks.control.simulators import (
    SimulationError,
    import_simulator,
    standard_error_closed,
)
from plasticity.tasks.control.slippery.mujoco import FRAME_SKIP

LEAST_FRICTION = 0.01
"""Smallest friction at which a step still agrees with MuJoCo's: the solver's stiffness grows with
1 / friction^2, and at 0.003 float32 has too few digits for it, so that ants are off by m/s."""

_ROWS_PER_CONTACT = 4
_EVALUATIONS = 4


@dataclass(frozen=True)
class WarpBody:
    """Body of a walker: what is its own of the physics.

    Attributes:
        name: Name of the body, for messages: one word, whose plural has an s.
        load_model: Function that returns a new `mujoco.MjModel`, which MuJoCo Warp can compute.
        kernels: Module of the body's kernels, `finish_step` and `begin_episodes`.
        most_contacts: Largest possible number of contacts of one body.
        most_rows: Rows of constraints of these contacts: four of one with friction, one of another.
        joint_limits: Joints with limits, which have a row each.
    """

    name: str
    load_model: Callable[[], Any]
    kernels: str
    most_contacts: int
    most_rows: int
    joint_limits: int


def load_modules(name: str) -> tuple[Any, Any, Any]:
    """Import and return the modules `mujoco`, `warp` and `mujoco_warp`.

    Args:
        name: Name of the body that needs them, for the message.

    Raises:
        ModuleNotFoundError: if one is not installed.
    """
    remedy = "pip install 'plasticity[gpu]' (Python 3.11 or newer)"
    mujoco, warp, mujoco_warp = (
        import_simulator(module, f"The Warp {name}", remedy)
        for module in ("mujoco", "warp", "mujoco_warp")
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


class WarpPhysics:
    """Model and data of many walkers, each with its own friction, stepped five physics steps at a time.

    Args:
        body: Body of the walkers.
        num_envs: Number of walkers.
        device: "cpu" or a CUDA device.
        max_contacts: Capacity for contacts, per walker on average, and for one walker's rows of
            constraints. None: the most that the body can have.
        refine: Whether contact forces are solved for twice, the second time from the first solution.

    Raises:
        ModuleNotFoundError: if MuJoCo, Warp or MuJoCo Warp is not installed.
        ValueError: if there is no such device.

    Attributes:
        model: `mujoco_warp.Model`; `geom_friction` has a row for each walker.
        data: `mujoco_warp.Data` of all walkers.
        initial_qpos: Position of the body before the noise of a reset, a Warp array.
        mass_shares: Share of the mass that each part of the body has, a Warp array; of the world, 0.
        shared_kernels: Module of the kernels that all bodies have in common.
        kernels: Module of the body's own.
    """

    def __init__(
        self,
        body: WarpBody,
        num_envs: int,
        device: str | torch.device,
        *,
        max_contacts: int | None = None,
        refine: bool = True,
    ) -> None:
        self._body = body
        mujoco, self.warp, self._mujoco_warp = load_modules(body.name)
        # Without a GPU, Warp's C code prints a message, which is useless to those who chose the CPU.
        with nullcontext() if torch.cuda.is_available() else standard_error_closed():
            self.warp.init()
        self.shared_kernels = importlib.import_module(
            "plasticity.tasks.control.slippery.warp_kernels"
        )
        self.kernels = importlib.import_module(body.kernels)
        self.device = device = numbered_device(device)
        self.num_envs = num_envs
        self.warp_device = self.warp.device_from_torch(device)
        self._max_contacts = body.most_contacts if max_contacts is None else max_contacts
        of_contacts = min(_ROWS_PER_CONTACT * self._max_contacts, body.most_rows)
        self.max_rows = of_contacts + body.joint_limits
        host_model = body.load_model()
        with self.warp.ScopedDevice(self.warp_device):
            self.model = self._mujoco_warp.put_model(
                host_model, batch_sizes={"geom_friction": num_envs}
            )
            self.data = self._mujoco_warp.make_data(
                host_model, num_envs, nconmax=self._max_contacts, njmax=self.max_rows
            )
            self.initial_qpos = self.warp.array(host_model.qpos0, dtype=float)
            masses = host_model.body_mass
            self.mass_shares = self.warp.array(masses / masses.sum(), dtype=float)
        options = self.model.opt
        options.warn_overflow = 0  # check() reports it
        if self.warp_device.is_cuda:
            options.graph_conditional = self.warp.is_conditional_graph_supported()
        self._needs = torch.zeros(2, dtype=torch.int32, device=device)
        self._plane = int(mujoco.mjtGeom.mjGEOM_PLANE)
        self._capsule = int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        self._refine = refine
        self._can_overflow = self._max_contacts < body.most_contacts
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
        """Run a kernel, with one thread for each walker, or another number of them."""
        threads = self.num_envs if threads is None else threads
        self.warp.launch(kernel, dim=threads, inputs=list(arguments), device=self.warp_device)

    def step(self) -> None:
        """Take five steps, and compute the forces on the parts in the last one, as Gymnasium does."""
        for _ in range(FRAME_SKIP):
            self._mujoco_warp.step(self.model, self.data)
        self._mujoco_warp.rne_postconstraint(self.model, self.data)

    def place(self) -> None:
        """Compute where the parts of each body are, and how they move, from the state alone."""
        self._mujoco_warp.kinematics(self.model, self.data)
        self._mujoco_warp.com_pos(self.model, self.data)
        self._mujoco_warp.com_vel(self.model, self.data)

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
            self.shared_kernels.align_contacts,
            data.nacon,
            contact.worldid,
            contact.geom,
            model.geom_type,
            data.geom_xmat,
            self._plane,
            self._capsule,
            contact.frame,
            threads=data.naconmax,
        )

    def _before_solver(self, model: Any, data: Any) -> None:
        self._calls["control"] += 1
        if self._can_overflow:
            self.launch(
                self.shared_kernels.note_needs,
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
        name, capacity = self._body.name, self._max_contacts
        raise SimulationError(
            f"The Warp {name}s ran out of capacity, and contacts were left out: max_contacts = {capacity} "
            f"allows {self.num_envs} {name}s {most} contacts in total, but {contacts} were needed at once, "
            f"and each {name} {self.max_rows} rows of constraints, but one needed {rows}. Start again with "
            f"max_contacts = {self._body.most_contacts}, the most that one can have, or from the last "
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

    def __init__(self, physics: WarpPhysics, work: Callable[[], None], *, record: bool) -> None:
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

"""Physics of the Warp ants: capacity, and corrections of MuJoCo Warp against MuJoCo."""

import numpy as np
import pytest
import torch

from plasticity.tasks.control.ant import mujoco as ant_mujoco
from plasticity.tasks.control.ant.warp_physics import MOST_CONTACTS, AntWarpPhysics

mujoco = pytest.importorskip("mujoco")
mujoco_warp = pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")

NUM = 200


def test_the_capacity_suffices_for_all_contacts_of_an_ant():
    model = ant_mujoco.load_ant()
    kinds = mujoco.mjtGeom
    points = {kinds.mjGEOM_PLANE: 0, kinds.mjGEOM_SPHERE: 1, kinds.mjGEOM_CAPSULE: 2}
    assert sum(points[kinds(kind)] for kind in model.geom_type) == MOST_CONTACTS
    # Only the floor can be touched, and with a pyramid of four sides.
    collides = model.geom_contype[:, None] & model.geom_conaffinity[None]
    assert not collides[1:, 1:].any()
    assert (model.geom_condim == 3).all()
    assert model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    physics = AntWarpPhysics(1, "cpu")
    assert physics.max_rows == 4 * MOST_CONTACTS + int(model.jnt_limited.sum())


@pytest.fixture(scope="module")
def fallen():
    """Return physics with ants lying and standing in many poses, and the same states in MuJoCo."""
    rng = np.random.default_rng(0)
    model = ant_mujoco.load_ant()
    physics = AntWarpPhysics(NUM, "cpu")
    states = []
    for friction in np.geomspace(0.02, 2, NUM).astype(np.float32):
        model.geom_friction[:, 0] = friction
        data = mujoco.MjData(model)
        data.qpos[3:7] = rng.standard_normal(4)
        data.qpos[3:7] /= np.linalg.norm(data.qpos[3:7])
        data.qpos[7:] = np.array([0, 1, 0, -1, 0, -1, 0, 1]) + rng.uniform(-0.5, 0.5, 8)
        mujoco.mj_kinematics(model, data)
        lowest = (data.geom_xpos[1:, 2] - model.geom_size[1:, 0]).min()
        data.qpos[2] -= lowest - rng.uniform(-0.4, 0.0)
        data.qvel[:] = rng.standard_normal(14)
        data.qpos[:], data.qvel[:] = data.qpos.astype(np.float32), data.qvel.astype(np.float32)
        data.ctrl[:] = rng.uniform(-1, 1, 8).astype(np.float32)
        mujoco.mj_forward(model, data)
        states.append((friction, data))
    for name in ("qpos", "qvel", "ctrl"):
        values = np.stack([getattr(data, name) for _, data in states])
        physics.tensor(getattr(physics.data, name)).copy_(torch.from_numpy(values))
    frictions = torch.tensor([float(friction) for friction, _ in states])
    physics.tensor(physics.model.geom_friction)[..., 0] = frictions[:, None]
    with physics.warp.ScopedDevice("cpu"):
        mujoco_warp.forward(physics.model, physics.data)
    return physics, states


def test_contacts_match_mujoco(fallen):
    """Compare contacts and their tangents, which MuJoCo Warp itself rotates on steep legs."""
    physics, states = fallen
    contact = physics.data.contact
    total = int(physics.data.nacon.numpy()[0])
    worlds = contact.worldid.numpy()[:total]
    steep = 0
    for world, (friction, data) in enumerate(states):
        (own,) = np.nonzero(worlds == world)
        assert len(own) == data.ncon
        assert len(own) > 0
        order = np.lexsort((contact.pos.numpy()[own, 0], contact.geom.numpy()[own, 1]))
        own = own[order]
        expected = np.lexsort((data.contact.pos[:, 0], data.contact.geom[:, 1]))
        frames = data.contact.frame[expected]
        np.testing.assert_allclose(contact.frame.numpy()[own].reshape(-1, 9), frames, atol=1e-5)
        np.testing.assert_allclose(
            contact.dist.numpy()[own], data.contact.dist[expected], atol=1e-6
        )
        np.testing.assert_allclose(contact.friction.numpy()[own, 0], friction, rtol=1e-6)
        axes = data.geom_xmat[data.contact.geom[:, 1], 8]
        steep += (np.abs(axes) > np.cos(np.pi / 6)).sum()
    assert steep > 50


def test_aligning_contacts_twice_changes_nothing(fallen):
    """Check that aligning is harmless should a later MuJoCo Warp produce MuJoCo's tangents."""
    physics, _ = fallen
    frames = physics.tensor(physics.data.contact.frame)
    total = int(physics.data.nacon.numpy()[0])
    before = frames[:total].clone()
    physics._align_contacts(physics.model, physics.data)
    torch.testing.assert_close(frames[:total], before, atol=1e-6, rtol=0)


def test_accelerations_match_mujoco(fallen):
    """Compare on slippery floors too, where a single solution accumulates rounding errors."""
    physics, states = fallen
    found = physics.data.qacc.numpy()
    expected = np.stack([data.qacc for _, data in states])
    scale = np.abs(expected).max(axis=1)
    assert (np.abs(found - expected).max(axis=1) < 2e-5 * scale).all()
    # The test is sensitive: without the second solution it fails.
    alone = AntWarpPhysics(NUM, "cpu", refine=False)
    for name in ("qpos", "qvel", "ctrl"):
        own = alone.tensor(getattr(alone.data, name))
        own.copy_(physics.tensor(getattr(physics.data, name)))
    alone.tensor(alone.model.geom_friction).copy_(physics.tensor(physics.model.geom_friction))
    with physics.warp.ScopedDevice("cpu"):
        mujoco_warp.forward(alone.model, alone.data)
    assert (np.abs(alone.data.qacc.numpy() - expected).max(axis=1) > 2e-5 * scale).any()

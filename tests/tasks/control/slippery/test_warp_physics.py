"""Physics of Warp's walkers: capacity, and corrections of MuJoCo Warp against MuJoCo."""

import itertools

import numpy as np
import pytest
import torch

from plasticity.tasks.control.ant import mujoco as ant_mujoco
from plasticity.tasks.control.ant.warp import WARP_ANT
from plasticity.tasks.control.humanoid.warp import WARP_HUMANOID
from plasticity.tasks.control.slippery.warp_physics import WarpPhysics

mujoco = pytest.importorskip("mujoco")
mujoco_warp = pytest.importorskip("mujoco_warp", reason="needs plasticity[gpu]")

NUM = 200


ORDER = ("PLANE", "SPHERE", "CAPSULE")
POINTS = {
    ("PLANE", "SPHERE"): 1,
    ("PLANE", "CAPSULE"): 2,
    ("SPHERE", "SPHERE"): 1,
    ("SPHERE", "CAPSULE"): 1,
    ("CAPSULE", "CAPSULE"): 2,
}
"""Largest number of contacts of two shapes; two capsules have two if they are parallel."""


def collide(model, one, other):
    """Return whether MuJoCo looks for contacts of two geoms, by the rules of its documentation."""
    masks = model.geom_contype, model.geom_conaffinity
    if not any(first[one] & second[other] for first, second in (masks, masks[::-1])):
        return False
    # Bodies that are welded together count as one, and neither touches its parent, unless that is the world.
    welded = model.body_weldid
    ours, theirs = (welded[model.geom_bodyid[geom]] for geom in (one, other))
    parents = [welded[model.body_parentid[body]] for body in (ours, theirs)]
    related = ours and theirs and (ours == parents[1] or theirs == parents[0])
    return ours != theirs and not related


@pytest.mark.parametrize("body", [WARP_ANT, WARP_HUMANOID], ids=lambda body: body.name)
def test_the_capacity_suffices_for_all_contacts_of_a_body(body):
    model = body.load_model()
    shapes = [mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_") for kind in model.geom_type]
    contacts = rows = 0
    for pair in itertools.combinations(range(model.ngeom), 2):
        if collide(model, *pair):
            points = POINTS[tuple(sorted((shapes[geom] for geom in pair), key=ORDER.index))]
            contacts += points
            # A pyramid of four sides, or the normal alone.
            rows += points * {3: 4, 1: 1}[max(model.geom_condim[geom] for geom in pair)]
    assert (body.most_contacts, body.most_rows) == (contacts, rows)
    assert body.joint_limits == model.jnt_limited.sum()
    assert model.opt.cone == mujoco.mjtCone.mjCONE_PYRAMIDAL
    # None of what would have more contacts or rows.
    assert (model.npair, model.neq) == (0, 0)
    for constraint in (model.tendon_limited, model.dof_frictionloss, model.tendon_frictionloss):
        assert not constraint.any()
    assert WarpPhysics(body, 1, "cpu").max_rows == rows + body.joint_limits


@pytest.fixture(scope="module")
def fallen():
    """Return physics with ants lying and standing in many poses, and the same states in MuJoCo."""
    rng = np.random.default_rng(0)
    model = ant_mujoco.load_ant()
    physics = WarpPhysics(WARP_ANT, NUM, "cpu")
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
    alone = WarpPhysics(WARP_ANT, NUM, "cpu", refine=False)
    for name in ("qpos", "qvel", "ctrl"):
        own = alone.tensor(getattr(alone.data, name))
        own.copy_(physics.tensor(getattr(physics.data, name)))
    alone.tensor(alone.model.geom_friction).copy_(physics.tensor(physics.model.geom_friction))
    with physics.warp.ScopedDevice("cpu"):
        mujoco_warp.forward(alone.model, alone.data)
    assert (np.abs(alone.data.qacc.numpy() - expected).max(axis=1) > 2e-5 * scale).any()

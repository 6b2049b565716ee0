# SPDX-License-Identifier: Apache-2.0
"""SE(3): build, invert, apply and interpolate rigid transforms. `T_a_b` maps points from frame b to frame a."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def invert(T_a_b: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """T_b_a of a rigid transform; uses R^T, so the rotation must be orthonormal."""
    rotation = T_a_b[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ T_a_b[..., :3, 3:])
    bottom = T_a_b[..., 3:, :]
    return torch.cat([torch.cat([rotation, translation], dim=-1), bottom], dim=-2)


def apply(T_a_b: Float[Tensor, "*batch 4 4"], points_b: Float[Tensor, "*batch P 3"]) -> Float[Tensor, "*batch P 3"]:
    """Points of frame b in frame a."""
    return points_b @ T_a_b[..., :3, :3].transpose(-1, -2) + T_a_b[..., None, :3, 3]


def take_share(T_b_a: Float[Tensor, "*batch 4 4"], share: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 4 4"]:
    """The motion after a share (0-1) of its time, at constant speed and turn rate. For turns below 90 degrees."""
    R = T_b_a[..., :3, :3]
    axis_sin = 0.5 * torch.stack(
        [R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], dim=-1
    )
    sin = axis_sin.norm(dim=-1, keepdim=True)
    angle = torch.asin(sin.clamp(max=1.0))
    axis = axis_sin / sin.clamp(min=1e-12)
    x, y, z = (axis * torch.sin(share[..., None] * angle)).unbind(-1)  # times sine: exact also where there is no turn
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    half = torch.sin(0.5 * share[..., None, None] * angle[..., None])
    unit = torch.stack(
        [zero, -axis[..., 2], axis[..., 1], axis[..., 2], zero, -axis[..., 0], -axis[..., 1], axis[..., 0], zero],
        dim=-1,
    ).unflatten(-1, (3, 3))
    rotation = torch.eye(3, dtype=R.dtype, device=R.device) + skew + 2.0 * half**2 * (unit @ unit)
    top = torch.cat([rotation, share[..., None, None] * T_b_a[..., :3, 3:]], dim=-1)
    return torch.cat([top, T_b_a[..., 3:, :]], dim=-2)


# ---- numpy, float64: data sets and bags ----------------------------------------------------------------------------


def quat_to_matrix(quat_wxyz: Float[np.ndarray, "*batch 4"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Rotation matrices of quaternions in w, x, y, z order; they are normalised first."""
    q = np.asarray(quat_wxyz, dtype=np.float64)
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quat(rotation: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """Unit quaternion w, x, y, z with w >= 0 (Shepperd's method: the largest component is computed first)."""
    m = np.asarray(rotation, dtype=np.float64)
    trace = float(np.trace(m))
    squares = np.array([trace, m[0, 0], m[1, 1], m[2, 2]])
    i = int(np.argmax(squares))
    if i == 0:
        q = np.array([1.0 + trace, m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]])
    else:
        a = i - 1
        b, c = (a + 1) % 3, (a + 2) % 3
        q = np.empty(4)
        q[0] = m[c, b] - m[b, c]
        q[1 + a] = 1.0 + m[a, a] - m[b, b] - m[c, c]
        q[1 + b] = m[b, a] + m[a, b]
        q[1 + c] = m[c, a] + m[a, c]
    q /= np.linalg.norm(q)
    return -q if q[0] < 0 else q


def make_transform(
    rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "4 4"]:
    """T_a_b from the rotation of b in a and the position of b's origin in a (metres)."""
    T_a_b = np.eye(4)
    T_a_b[:3, :3] = rotation
    T_a_b[:3, 3] = translation
    return T_a_b


def invert_matrix(T_a_b: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """T_b_a, as `invert`, in numpy and float64."""
    rotation = T_a_b[:3, :3].T
    return make_transform(rotation, -rotation @ T_a_b[:3, 3])


def interpolate(T_w_a: Float[np.ndarray, "4 4"], T_w_b: Float[np.ndarray, "4 4"], fraction: float) -> np.ndarray:
    """Pose between a (fraction 0) and b (fraction 1): linear translation, spherical-linear rotation."""
    qa, qb = matrix_to_quat(T_w_a[:3, :3]), matrix_to_quat(T_w_b[:3, :3])
    cosine = float(qa @ qb)
    if cosine < 0:
        qb, cosine = -qb, -cosine
    if cosine > 0.9995:  # the arc is shorter than 4 degrees: a chord is exact to 1e-7 rad and never divides by zero
        q = (1 - fraction) * qa + fraction * qb
    else:
        angle = np.arccos(cosine)
        q = (np.sin((1 - fraction) * angle) * qa + np.sin(fraction * angle) * qb) / np.sin(angle)
    translation = (1 - fraction) * T_w_a[:3, 3] + fraction * T_w_b[:3, 3]
    return make_transform(quat_to_matrix(q), translation)

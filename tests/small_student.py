"""The smallest student: one layer on every position, as wide as what it learns."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax

from jaxad.core import Method
from jaxad.methods.stfpm import stfpm
from jaxad.ops.layers import BatchNorm, Linear


class Student(nn.Module):
    """A layer and its BatchNorm, which folding takes into it."""

    width: int
    level: str
    train: bool = False
    folded: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        norm = BatchNorm(axis_name=self.axis_name, name="bn")
        return {self.level: norm(Linear(self.width, name="conv")(x), train=self.train)}


def student_of(
    photo: str, level: str, width: int, *, axis_name: str | None = None, **options: Any
) -> Method:
    """STFPM on features `photo`, which learns `level` of that width."""
    name = level.rsplit("/", 1)[-1]
    student = functools.partial(Student, width, name, axis_name=axis_name)
    return stfpm(photo, [level], student, prepare=lambda x: x, **options)

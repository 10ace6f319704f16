"""A second judge beside a method: a photo's score is the geometric mean of both image scores.

A network that rebuilds features says how far a photo is from what can be rebuilt, a gallery how far
it is from the photos that were learnt. Which of both is large tells different defects, and the
product needs no common unit.
"""

from __future__ import annotations

import jax.numpy as jnp

from jaxad.core import Array, Features, Images, InputError, Method, Scores, Variables
from jaxad.ops.normalise import safe_sqrt


def beside(method: Method, judge: Method) -> Method:
    """Put a judge beside a method: the map stays the method's, the image score is of both.

    Args:
        method: Any method; its own image score is not negative.
        judge: One that learns without steps, such as `spade((), pooled=...)`; its image score is
            not negative, its map is not read.

    Returns:
        A `Method` that learns as the first does, and then by the judge's `finalize`; its variables
        are those of both.

    Raises:
        InputError: From `init`, where both have a collection of one name.
    """

    def init(rng: Array, features: Features) -> Variables:
        own, other = method.init(rng, features), judge.init(rng, features)
        if shared := own.keys() & other.keys():
            raise InputError(f"both methods have variables {', '.join(sorted(shared))}")
        return {**own, **other}

    def score(variables: Variables, features: Features, *, size: tuple[int, int]) -> Scores:
        own = method.score(variables, features, size=size)
        other = judge.score(variables, features, size=size)
        both = jnp.maximum(own.image * other.image, 0)  # a cosine may pass 1 by a rounding
        return own._replace(image=safe_sqrt(both))

    def finalize(variables: Variables, images: Images) -> Variables:
        for one in (method, judge):
            if one.finalize is not None:
                variables = one.finalize(variables, images)
        return variables

    def fold(variables: Variables) -> Variables:
        for one in (method, judge):
            if one.fold is not None:
                variables = {**variables, **one.fold(variables)}
        return variables

    return method._replace(
        init=init,
        score=score,
        finalize=finalize,
        fold=fold,
        grows=method.grows | judge.grows,
        update=None,
    )

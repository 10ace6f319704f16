"""One more subclass for a mixture: a few good photos of it, and no training.

It begins as a copy of the nearest expert. A memory bank becomes one of the new photos alone, or
keeps what it has and takes them in (`adding`: better by far, docs/adapted_moe.md); a trained
network stays, and what its features are calibrated to and its scores are told in become
those of the new photos. That is another protocol than the paper's, whose unseen subclasses have no
photo beforehand.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxad.core import Features, Images, InputError, Method, Variables
from jaxad.methods.mixture import Routed, experts_of, with_experts
from jaxad.methods.routing import embed, route
from jaxad.methods.side_by_side import APART, STACKED


def adding(expert: Method) -> Method:
    """The same memory bank, which takes photos in beside what it has.

    `welcome` gives a subclass a bank of its nearest one's members and the new photos', where its
    `larger` is a mixture of such experts.

    Raises:
        InputError: A method without a bank.
    """
    update = expert.update
    if update is None:
        raise InputError(
            "an expert without a memory bank has nothing that photos could be added to"
        )

    def finalize(variables: Variables, images: Images) -> Variables:
        known = int(np.max(np.asarray(variables["bank"]["photo"]), initial=-1)) + 1
        return update(variables, images, stay=np.ones(known, bool))

    return expert._replace(finalize=finalize)


def welcome(
    larger: Method, routed: Routed, variables: Variables, images: Images, *, shared: bool = False
) -> Variables:
    """Add a subclass to a trained mixture of n experts.

    Args:
        larger: The same mixture of n + 1 experts.
        routed: The router of n.
        variables: As trained, of n experts.
        images: Good photos of the new subclass; what their batches say of it does not matter.
        shared: As the mixtures have it.

    Returns:
        Variables of `larger`; its last expert is the new one.

    Raises:
        InputError: There are no photos.
    """
    if not len(images):
        raise InputError("a new subclass needs one good photo at least")
    centres = variables["routing"]["centres"]
    count = centres.shape[0]

    @jax.jit
    def place(features: Features) -> jax.Array:
        return embed(routed.router, variables, features[routed.feature])[0][0]

    centre = jnp.mean(jnp.stack([place(features) for features, _ in images]), axis=0)
    nearest = int(route(centre[None], centres, k=1, temperature=1.0)[0][0, 0])

    def one_more(leaf: Any) -> Any:
        return jnp.concatenate([leaf, leaf[nearest][None]])

    own = experts_of(variables)
    if not shared:
        holding = APART if larger.grows else STACKED
        each = [holding.own(own, n) for n in range(count)]
        own = holding.join([*each, each[nearest]])
    grown = with_experts(variables, own)
    for name in ("subclasses", "normal"):
        if name in grown:
            grown[name] = jax.tree.map(one_more, grown[name])
    grown["routing"] = {"centres": jnp.concatenate([centres, centre[None]])}
    router = dict(grown["params"]["router"])
    kernel = router["classify"]["kernel"]  # which nothing asks any more
    router["classify"] = {"kernel": jnp.pad(kernel, ((0, 0), (0, 1)))}
    grown["params"] = {**grown["params"], "router": router}
    newest = [(features, {"subclass": np.asarray([count], np.int32)}) for features, _ in images]
    for learn in (larger.observe, larger.finalize):
        grown = learn(grown, newest) if learn is not None else grown
    return grown

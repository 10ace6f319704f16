"""How Adapted-MoE's experts are put to XLA: one gather, a loop over images, or all of them.

    python -m benchmarks.experts [--pairs 7] [--json FILE]

No weights or data are needed. Scoring: `gather` picks every image's own expert from the stacked
parameters, `loop` runs one image after the other (which `adapted_moe` does), `all` runs every
expert on every image and then picks. Training: `stacked` is one batched matmul for all experts
(which `experts` does), `loop` one after the other. Medians of interleaved runs.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import interleave, machine
from jaxad.files import write_json
from jaxad.methods.adapted_moe import experts, of_experts
from jaxad.methods.simplenet import Expert, simplenet

Form = Callable[..., Any]


def own(variables: Any, j: Any) -> Any:
    """The variables of expert `j`."""
    return jax.tree.map(lambda leaf: leaf[j], variables)


def scoring(expert: Expert, count: int) -> dict[str, Form]:
    """Forms of `f(stacked, x (B, h, w, C), index (B,)) -> (B, h, w)`."""

    def gather(stacked: Any, x: Any, index: Any) -> Any:
        return jax.vmap(lambda x, j: expert.apply(own(stacked, j), x)[0])(x, index)

    def loop(stacked: Any, x: Any, index: Any) -> Any:
        return jax.lax.map(lambda pair: expert.apply(own(stacked, pair[1]), pair[0])[0], (x, index))

    def every(stacked: Any, x: Any, index: Any) -> Any:
        found = jnp.stack([expert.apply(own(stacked, j), x)[0] for j in range(count)])
        return found[index, jnp.arange(len(x))]

    return {"gather": gather, "loop": loop, "all": every}


def training(expert: Expert, count: int, *, noise: float = 0.015) -> dict[str, Form]:
    """Forms of `f(stacked, x (m · n, C), rng) -> gradients`."""
    whole = experts("x", expert, count=count, normalise=False, noise=noise)
    alone = simplenet("x", hidden=expert.hidden, noise=noise)

    def value(variables: Any, params: Any, x: Any, rng: Any, method: Any) -> Any:
        return method.loss({**variables, "params": params}, {"x": x}, {}, rng)[0]

    def stacked(variables: Any, x: Any, rng: Any) -> Any:
        return jax.grad(lambda p: value(variables, p, x, rng, whole))(variables["params"])

    def loop(variables: Any, x: Any, rng: Any) -> Any:
        def one(j: int) -> Any:
            mine = {name: own(tree, j) for name, tree in of_experts(variables).items()}
            part = x[j::count]
            return jax.grad(lambda p: value(mine, p, part, rng, alone))(mine["params"])

        return [one(j) for j in range(count)]

    return {"stacked": stacked, "loop": loop}


def medians(forms: dict[str, Form], *args: Any, pairs: int) -> dict[str, float]:
    """Median milliseconds of each form, run in turn."""

    def waiting(form: Form) -> Callable[[], Any]:
        compiled = jax.jit(form)
        return lambda: jax.block_until_ready(compiled(*args))

    runs = {name: waiting(form) for name, form in forms.items()}
    seconds = interleave(runs, pairs=pairs, warmup=1)
    return {name: round(1e3 * statistics.median(each), 2) for name, each in seconds.items()}


def in_ms(found: dict[str, float]) -> dict[str, float]:
    """Name the unit in the keys of a row."""
    return {f"{name}_ms": each for name, each in found.items()}


def main() -> None:
    """Time all forms at two widths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    rng = jax.random.key(0)
    for width, hidden, count in ((384, 256, 4), (1536, 1024, 4), (384, 256, 10)):
        expert = Expert(hidden)
        variables = experts("x", expert, count=count).init(rng, {"x": jnp.zeros((2, width))})
        alone = of_experts(variables)
        for batch in (1, 8):
            x = jax.random.normal(rng, (batch, 32, 32, width))
            index = jnp.arange(batch) % count
            found = medians(scoring(expert, count), alone, x, index, pairs=args.pairs)
            rows.append(
                {"what": "score", "width": width, "n": count, "batch": batch, **in_ms(found)}
            )
        x = jax.random.normal(rng, (512 * count, width))
        found = medians(training(expert, count), variables, x, rng, pairs=args.pairs)
        rows.append({"what": "train", "width": width, "n": count, "batch": len(x), **in_ms(found)})
    for row in rows:
        print(row)
    if args.json:
        results = {"benchmark": "experts", "machine": machine(), "rows": rows}
        write_json(args.json, results)


if __name__ == "__main__":
    main()

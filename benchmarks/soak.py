"""Long tests of what must not break: killed runs, memory, the cost of saving.

    python -m benchmarks.soak kills [--signal KILL|TERM|INT] [--count 30] [--seed 0] [--json FILE]
    python -m benchmarks.soak memory [--steps 20000] [--images 200000] [--plot PNG] [--json FILE]
    python -m benchmarks.soak saving [--pairs 5] [--json FILE]
    python -m benchmarks.soak predict [--images 200000] [--count 5] [--seed 0] [--json FILE]
    python -m benchmarks.soak serve [--clients 200] [--seconds 60] [--model FILE --photos DIR]

`kills`: small runs of MB-PFM, AFRAD, SimpleNet and Adapted-MoE (drawn photos, random networks) are
killed at many moments and started again by the same command until they end. Kills aim in turn at a
save, at evaluation and at any moment; where fewer than a sixth of them hit a save or an evaluation,
more follow. Every end is compared with that of a run that nobody disturbed, bit for bit: arrays,
results (times aside), the log of steps, and which files there are. `memory`: resident memory of a
training of many steps, and of many scored photos. `saving`: see `benchmarks.soak_saving`.
`predict`: `jaxad predict` over many photos, with kills and without: its memory, and the same table.
`serve`: `jaxad serve` under many clients at once and under hostile requests, with a small detector
and with an exported one: no error, p50 and p95, memory.
`--quick` shows that it runs. Exit code 1: something is not as it must be.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import machine, markdown
from benchmarks.soak_kills import Kill, Soak, missing, plan
from benchmarks.soak_runs import SUBJECTS, small_config, write_data
from jaxad.errors import InputError
from jaxad.files import write_json

GROWTH = 0.05
"""Of memory, that is still none."""


def kills(args: argparse.Namespace, root: Path) -> tuple[dict[str, Any], bool]:
    """Kill and compare; whether all is well."""
    sign = signal.Signals[f"SIG{args.signal}"]
    names = args.only or list(SUBJECTS)
    rng = np.random.default_rng(args.seed)
    data = write_data(root / "data")
    print(f"seed {args.seed}, {sign.name}")
    found: list[Kill] = []
    wrong: list[str] = []
    soaks = {}
    runs = 0
    for name in names:
        soaks[name] = Soak(name, data, root, rng=rng)
        wrong += [f"{name}, undisturbed: {told}" for told in soaks[name].undisturbed()]
    aims = plan(args.count, names)
    while any(aims.values()) and runs < 3 * args.count:
        for name in names:
            while aims[name] and runs < 3 * args.count:
                runs += 1
                seen, differ = soaks[name].run(runs, aims[name], sign, _say)
                found += seen
                wrong += [f"{name}, run {runs}: {told}" for told in differ]
                print(f"{name}: run {runs} has ended; {len(differ)} differences", flush=True)
        for n, aim in enumerate(missing(found, args.count // 6)):
            aims[names[n % len(names)]].append(aim)
    wrong += [f"run {kill.run}: {', '.join(kill.left)} left" for kill in found if kill.left]
    codes = {128 + sign, -sign}
    wrong += [f"run {kill.run}: exit code {kill.code}" for kill in found if kill.code not in codes]
    wrong += [f"no kill hit a moment of kind {aim}" for aim in missing(found, args.count // 6)]
    hits = {kind: [k.hit for k in found].count(kind) for kind in sorted({k.hit for k in found})}
    print(markdown(("hit", "kills"), list(hits.items())))
    print("\n".join(wrong) or f"{runs} runs, {len(found)} kills: all as if undisturbed")
    rows = [dataclasses.asdict(kill) for kill in found]
    written = {"seed": args.seed, "signal": sign.name, "runs": runs, "hits": hits, "wrong": wrong}
    return {**written, "rows": rows}, not wrong


def _say(kill: Kill) -> None:
    left = f", left: {', '.join(kill.left)}" if kill.left else ""
    print(
        f"{kill.subject} run {kill.run}: after {kill.after:6.3f} s, aimed at {kill.aim}, hit "
        f"{kill.hit}, exit code {kill.code}{left}",
        flush=True,
    )


def memory(args: argparse.Namespace, root: Path) -> tuple[dict[str, Any], bool]:
    """Measure memory; whether it stays."""
    from benchmarks import soak_memory

    data = write_data(root / "data")
    found = {
        "steps": soak_memory.training(root, data, steps=args.steps),
        "images scored": soak_memory.scoring(root, data, images=args.images),
    }
    grown = {name: soak_memory.growth(samples) for name, samples in found.items()}
    rows = [
        (name, samples[-1].done, f"{max(s.megabyte for s in samples):.0f}", f"{grown[name]:+.2%}")
        for name, samples in found.items()
    ]
    print(markdown(("what", "how many", "MB resident, most", "growth"), rows))
    if args.plot:
        soak_memory.draw(found, f"{machine()['device']}").save(args.plot, "PNG", optimize=True)
    well = max(grown.values()) < GROWTH
    return {"growth": grown, "samples": found}, well or args.quick


def saving(args: argparse.Namespace, root: Path) -> tuple[dict[str, Any], bool]:
    """Measure what saving costs; whether it is little."""
    from benchmarks import soak_saving

    rows = []
    if args.quick:
        case = soak_saving.Case("simplenet", (90,), 30)
        config = small_config("simplenet", write_data(root / "data"))
        config.data.categories = "washer"
        rows.append(soak_saving.measure(case, config, root, pairs=args.pairs))
    else:
        for case in soak_saving.CASES:
            to = root / case.name
            config = soak_saving.configuration(case, to)
            rows.append(soak_saving.measure(case, config, to, pairs=args.pairs))
    head = ("training", "MB a save", "s a save, by pairs", "whole", "share at the default interval")
    print(
        markdown(
            (*head, "whole", "the dearest"),
            [
                (
                    *(row["name"], f"{row['megabyte']:.1f}"),
                    *(f"{value:.3f}" for value in row["seconds_a_save"].values()),
                    *(f"{value:.2%}" for value in row["share"].values()),
                )
                for row in rows
            ],
        )
    )
    well = all(value < soak_saving.BAR for row in rows for value in row["share"].values())
    return {"rows": rows}, well or args.quick


def predict(args: argparse.Namespace, root: Path) -> tuple[dict[str, Any], bool]:
    """Predict with and without kills; whether each photo is in the table once, in steady memory."""
    from benchmarks import soak_memory, soak_predict

    rng = np.random.default_rng(args.seed)
    data = write_data(root / "data")
    found = soak_predict.measure(root, data, photos=args.images, kills=args.count, rng=rng)
    samples = found["samples"]
    found["growth"] = 0.0 if args.quick else soak_memory.growth(samples)
    found["megabyte"] = max(sample.megabyte for sample in samples)
    head = ("photos", "a second", "kills", "MB resident, most", "growth")
    row = (found["photos"], found["photos_per_second"], len(found["kills"]))
    print(markdown(head, [(*row, f"{found['megabyte']:.0f}", f"{found['growth']:+.2%}")]))
    print("\n".join(found["wrong"]) or "each photo once, and the same table as if undisturbed")
    return found, not found["wrong"] and (found["growth"] < GROWTH or args.quick)


def serve(args: argparse.Namespace, root: Path) -> tuple[dict[str, Any], bool]:
    """Serve many clients at once, and hostile ones; whether none but these were refused."""
    from benchmarks import soak_predict, soak_serve

    workdir = soak_predict.prepare(root, write_data(root / "data"))
    jobs = {"small": (["--workdir", str(workdir)], root / "normal")}
    if args.model:
        if args.photos is None:
            raise InputError("--model needs --photos: a folder of what it judges")
        jobs["model"] = ["--model", str(args.model.absolute())], args.photos
    found: dict[str, Any] = {}
    for name, (source, folder) in jobs.items():
        photos = sorted(folder.rglob("*.png"))[:200]
        found[name] = soak_serve.measure(
            source, root, photos, clients=args.clients, seconds=args.seconds
        )
    head = ("detector", "requests", "a second", "p50 ms", "p95 ms", "p99 ms", "MB", "growth")
    keys = ("requests", "per_second", "p50_ms", "p95_ms", "p99_ms", "megabyte")
    rows = [(name, one["loaded"]) for name, one in found.items()]
    print(markdown(head, [(n, *(o[k] for k in keys), f"{o['growth']:+.2%}") for n, o in rows]))
    wrong = [f"{name}: {told}" for name, one in found.items() for told in one["wrong"]]
    print("\n".join(wrong) or "photos got 200, hostile requests 4xx")
    return found, not wrong and (args.quick or all(o["growth"] < GROWTH for _, o in rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of them; 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("kills")
    one.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    one.add_argument("--count", type=int, help="kills; 30, or 2 if quick")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--only", nargs="*", choices=list(SUBJECTS), help="methods; all")
    one.set_defaults(run=kills)
    one = parts.add_parser("memory")
    one.add_argument("--steps", type=int, help="20000, or 400 if quick")
    one.add_argument("--images", type=int, help="200000, or 5000 if quick")
    one.add_argument("--plot", type=Path, help="PNG")
    one.set_defaults(run=memory)
    one = parts.add_parser("saving")
    one.add_argument("--pairs", type=int, help="5, or 1 if quick")
    one.set_defaults(run=saving)
    one = parts.add_parser("predict")
    one.add_argument("--images", type=int, help="200000, or 12000 if quick")
    one.add_argument("--count", type=int, help="kills; 5, or 2 if quick")
    one.add_argument("--seed", type=int, default=0)
    one.set_defaults(run=predict)
    one = parts.add_parser("serve")
    one.add_argument("--clients", type=int, default=200)
    one.add_argument("--seconds", type=float, help="of load; 60, or 3 if quick")
    one.add_argument("--model", type=Path, help="a file of jaxad export, besides")
    one.add_argument("--photos", type=Path, help="folder of PNG photos for it")
    one.set_defaults(run=serve)
    for one in parts.choices.values():
        one.add_argument("--json", type=Path, help="write all that was seen here")
        one.add_argument("--keep", type=Path, help="keep the runs in this folder, which is made")
        one.add_argument("--quick", action="store_true", help="shows that it runs, no more")
    args = parser.parse_args(argv)
    usual = {
        "count": (30, 2),
        "steps": (20000, 400),
        "images": (200000, 5000),
        "pairs": (5, 1),
        "seconds": (60, 3),
    }
    if args.part == "predict":
        usual |= {"count": (5, 2), "images": (200000, 12000)}
    for name, (full, quick) in usual.items():
        if getattr(args, name, 0) is None:
            setattr(args, name, quick if args.quick else full)
    start = time.monotonic()
    try:
        if args.keep:
            args.keep.mkdir(parents=True)
            found, well = args.run(args, args.keep)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found, well = args.run(args, Path(folder))
        if args.json:
            took = round(time.monotonic() - start, 1)
            about = {"benchmark": f"soak {args.part}", "machine": machine(), "took": took}
            write_json(args.json, {**about, **found})
    except (InputError, FileExistsError) as error:
        print(error, file=sys.stderr)
        return 2
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())

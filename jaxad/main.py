"""The command line `jaxad`: what it was given to the jobs, what they found to the terminal.

Exit code 0 when the job was done, 1 where `predict --fail-on-anomaly` has met one, 2 for unusable
arguments or input (one line on standard error), 130 and 143 when SIGINT (Ctrl-C) or SIGTERM has
stopped it: all is kept, the same command goes on.
"""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jaxad.errors import InputError, Stopped, printable
from jaxad.flags import make_parser


def _train(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.config import parse_config
    from jaxad.runs.calibrations import FILE, lines, read_calibrations
    from jaxad.runs.joining import join
    from jaxad.runs.processes import is_first, only_the_first_speaks
    from jaxad.runs.stopping import Stopping
    from jaxad.runs.train import train

    config = parse_config(rest)
    several = join(args.coordinator, args.num_processes, args.process_id)
    with Stopping() as stopping, only_the_first_speaks() if several else nullcontext():
        results = train(config, args.workdir, overwrite=args.overwrite, check=stopping.check)
    if is_first():
        _print_results(results, args.workdir)
        told = shlex.quote(str(args.workdir))
        if (args.workdir / FILE).is_file():
            _print("\n".join(lines(read_calibrations(args.workdir), args.workdir)))
            then = f"next: jaxad predict --workdir {told} PHOTOS --out judged --overlays"
        else:
            then = (
                "no photos were held back to set a threshold by (data.calibration); next: jaxad "
                f"calibrate --workdir {told} GOOD_PHOTOS, new photos of normal parts"
            )
        print(then, file=sys.stderr)


def _evaluate(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.evaluate import evaluate
    from jaxad.runs.stopping import Stopping

    with Stopping() as stopping:
        results = evaluate(args.workdir, rest, check=stopping.check)
    _print_results(results, args.workdir)


def _audit(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.report.audit import format_audit
    from jaxad.runs.audit import audit
    from jaxad.runs.stopping import Stopping

    with Stopping() as stopping:
        found = audit(
            args.workdir,
            rest,
            against=args.against,
            category=args.category,
            resamples=args.resamples,
            check=stopping.check,
        )
    page = args.workdir / "report" / found["page"]
    _print(f"{format_audit(found, encoding=_encoding())}\nreport: {page}")


def _calibrate(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.calibrate import calibrate
    from jaxad.runs.calibrations import lines
    from jaxad.runs.stopping import Stopping

    if rest:
        raise InputError(f"unknown argument {rest[0]!r}: see jaxad calibrate --help")
    with Stopping() as stopping:
        found = calibrate(
            args.workdir,
            args.photos,
            false_alarm=args.false_alarm,
            confidence=args.confidence,
            category=args.category,
            subclass=args.subclass,
            add=args.add,
            leave_out=args.leave_out,
            check=stopping.check,
        )
    _print("\n".join(lines(found, args.workdir)))


def _update(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.stopping import Stopping
    from jaxad.runs.update import paths_of, update

    if rest:
        raise InputError(f"unknown argument {rest[0]!r}: see jaxad update --help")
    listed = paths_of(args.forget_list) if args.forget_list else []
    with Stopping(doing="leaving") as stopping:
        found = update(
            args.workdir,
            add=args.add,
            forget=[*args.forget, *listed],
            category=args.category,
            check=stopping.check,
        )
    came = found.members - found.before + found.gone
    _print(
        f"{found.detector}: {found.added} photos added ({came} members), {found.forgotten} "
        f"forgotten ({found.gone} members); the bank had {found.before} and has {found.members}"
    )
    told, more = shlex.quote(str(args.workdir)), ""
    if args.category is not None:
        more = f" --category {shlex.quote(args.category)}"
    print(
        f"calibration, results and exported files are of the old bank: run jaxad calibrate "
        f"--workdir {told}{more} DIR, DIR being a folder of normal photos; then jaxad evaluate "
        f"--workdir {told}, and export again",
        file=sys.stderr,
    )


def _export(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.export import export
    from jaxad.runs.export_graph import export_graph
    from jaxad.runs.stopping import Stopping

    if args.to != "jaxad":
        files = export_graph(
            args.workdir,
            args.out,
            args.to,
            batch_size=args.batch_size,
            detector=args.detector,
            changes=rest,
            overwrite=args.overwrite,
        )
        told = ", ".join(f"{path} ({path.stat().st_size / 1e6:.1f} MB)" for path in files)
        _print(f"{told}: images of noise score as in {args.workdir}")
        return
    with Stopping() as stopping:
        found = export(
            args.workdir,
            args.out,
            detector=args.detector,
            platforms=tuple(name for name in args.platforms.split(",") if name),
            changes=rest,
            photos=args.photos,
            overwrite=args.overwrite,
            check=stopping.check,
        )
    if not found["lines"]:
        print(
            "the file has no calibration, so that jaxad predict can not decide by it: run jaxad "
            f"calibrate --workdir {args.workdir}, then export again",
            file=sys.stderr,
        )
    _print(
        f"{args.out}: {found['bytes'] / 1e6:.1f} MB, model {found['id']}, for "
        f"{', '.join(found['platforms'])}\n{found['photos']} photos and generated images score as "
        f"in {args.workdir}: maps differ by at most {found['map']:.1e} of their spread, image "
        f"scores by {found['image']:.1e}" + "".join(f"\n{line}" for line in found["lines"])
    )


def _status(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.runs.status import status

    if rest:
        raise InputError(f"unknown argument {rest[0]!r}: jaxad status takes a work directory alone")
    _print(status(args.workdir))


def _judge(args: argparse.Namespace, *, batch_size: int | None) -> Any:
    """Who judges, by the flags of `flags._add_judge`."""
    from jaxad.runs.models import open_judge

    judge = open_judge(
        workdir=args.workdir,
        model=args.model,
        category=args.category,
        subclass=args.subclass,
        false_alarm=args.false_alarm,
        batch_size=batch_size,
        runtime=args.runtime,
    )
    if judge.note:
        print(judge.note, file=sys.stderr)
    return judge


def _predict(args: argparse.Namespace, rest: Sequence[str]) -> int:
    from jaxad.runs.stopping import Stopping

    if rest:
        raise InputError(f"unknown argument {rest[0]!r}: see jaxad predict --help")
    if (args.out is None) == (args.watch is None):
        raise InputError("name the folder of results by --out, or one to be watched by --watch")
    if args.max_errors is not None and args.max_errors < 0:
        raise InputError(f"--max-errors is {args.max_errors}: it must be 0 or more")
    if args.watch and (args.photos or any((args.maps, args.overlays, args.masks))):
        raise InputError("--watch prints a line a photo: it takes no PATH and draws nothing")
    with Stopping(doing="leaving" if args.watch else "saving, then leaving") as stopping:
        # What waits alone is scored at once, not in a batch that is padded.
        alone = args.watch and args.batch_size is None
        judge = _judge(args, batch_size=1 if alone else args.batch_size)
        if args.watch:
            try:
                _watch(args, judge, stopping.check)
            except Stopped as stopped:  # there is nothing to go on with
                print("jaxad: stopped", file=sys.stderr)
                return 128 + stopped.signal
            return 0
        from jaxad.runs.drawings import Drawing
        from jaxad.runs.judged import FILE as PAGE
        from jaxad.runs.predict import Limit, predict

        summary = predict(
            args.photos,
            args.out,
            judge,
            drawing=Drawing(args.maps, args.overlays, args.masks),
            limit=Limit(args.max_errors, args.overwrite),
            listed=getattr(sys.stdin, "buffer", None),
            check=stopping.check,
        )
    _print_summary(summary, args.out, args.out / PAGE if args.overlays else None)
    return int(args.fail_on_anomaly and summary["anomalous"] > 0)


def _watch(args: argparse.Namespace, judge: Any, check: Callable[[], None]) -> None:
    import json
    import signal

    from jaxad.runs.watch import watch

    def emit(row: dict[str, Any]) -> None:
        try:
            print(json.dumps(row), flush=True)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise Stopped(signal.SIGPIPE) from None

    watch(args.watch, judge, emit, poll=args.poll, check=check)


def _serve(args: argparse.Namespace, rest: Sequence[str]) -> None:
    if rest:
        raise InputError(f"unknown argument {rest[0]!r}: see jaxad serve --help")
    try:
        from jaxad.serve.bounds import Bounds
        from jaxad.serve.server import serve
    except ModuleNotFoundError as error:
        raise InputError(f"no package {error.name}: pip install 'jaxad[serve]'") from error
    print(
        f"loading {args.model or args.workdir}: a line says when it serves, and where",
        file=sys.stderr,
        flush=True,
    )
    judge = _judge(args, batch_size=args.batch_size)
    bounds = Bounds(round(args.max_body * (1 << 20)), args.queue)
    serve(judge, host=args.host, port=args.port, bounds=bounds, hosts=args.allow_host)


def _print_summary(summary: dict[str, Any], out: Path, page: Path | None) -> None:
    from jaxad.runs.judged import rare

    kinds = ("good", "anomalous", "errors")
    told = ", ".join(f"{summary[kind]} {kind}" for kind in kinds)
    rate = summary["photos_per_second"]
    lines = [f"{summary['photos']} photos: {told}" + (f"; {rate} a second" if rate else "")]
    if summary["drift"] is None:
        lines.append("drift is not looked for: name one category by --category")
    else:
        lines.append(summary["drift"]["all"]["text"])
        if summary["drift"]["latest"]["drifted"]:
            lines.append(f"the latest photos: {summary['drift']['latest']['text']}")
    lines += rare(summary)
    lines.append(f"table: {out / 'predictions.csv'} and .parquet")
    if page:
        lines.append(f"page: {page}")
    _print("\n".join(lines))


def _print_results(results: dict[str, Any], workdir: Path) -> None:
    from jaxad.report.table import format_table

    lines = []
    if results["categories"]:
        lines.append(format_table(results, encoding=_encoding()))
        if any(None in metrics.values() for metrics in results["categories"].values()):
            lines.append("–: undefined, as pixel figures without masks, or all without defects")
    else:
        lines.append("the detector is trained; there are no test photos, so nothing was measured")
    for name, value in results.get("replicates", {}).get("mean", {}).items():
        if value is not None:
            count = results["replicates"]["count"]
            lines.append(f"{name} of {count} replicates: {value['mean']:.4f} ± {value['sd']:.4f}")
    for name, at in results.get("decisions", {}).items():
        bad, good = at["found"] + at["missed"], at["alarms"] + at["passed"]
        kinds = [f"{at['found']} of {bad} defective"] if bad else []
        kinds += [f"{at['alarms']} of {good} good"] if good else []
        lines.append(
            f"{printable(name)}: at the line for {100 * at['false_alarm']:g}% false alarms, "
            f"{' and '.join(kinds)} test photos are called anomalous"
        )
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in results["seconds"].items())
    speed = results["images_per_second"]
    lines.append(seconds + ("" if speed is None else f"; scoring {speed} images a second"))
    if results["categories"]:
        page = "part.html" if results.get("part") else "index.html"
        lines.append(f"report: {workdir / 'report' / page}")
    _print("\n".join(lines))


def _encoding() -> str | None:
    return getattr(sys.stdout, "encoding", None)


def _print(text: str) -> None:
    """Print in signs that standard output can carry, also where nobody reads to the end."""
    from jaxad.report.table import fitting

    try:
        print(fitting(text, _encoding()), flush=True)
    except BrokenPipeError:  # `jaxad ... | head`; what follows goes nowhere, at exit too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _data_check(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxad.data.check import check_dataset

    root, layout = args.root or "", args.layout or ""
    options: dict[str, Any] = {}
    if rest or args.config:  # what the configuration imports takes seconds
        root, layout, options = _data_keys(args, rest)
    if not root and not layout:
        raise InputError("name the folder of the data set, or --config or --layout")
    text, usable = check_dataset(root, layout=layout, decode=args.decode, **options)
    _print(text)
    if not usable:
        name = root or f"the data of layout {layout}"
        raise InputError(f"{name} can not be used as it is: see the problems above")


def _data_keys(args: argparse.Namespace, rest: Sequence[str]) -> tuple[str, str, dict[str, Any]]:
    """Root, layout ("": to be guessed) and options of a check, from keys below `data`."""
    from jaxad.config import apply_changes, check_config, default_config, load_file
    from jaxad.data.jobs import name_list
    from jaxad.runs.dataset import layout_options

    config = load_file(args.config) if args.config else default_config()
    flags = {"root": args.root, "layout": args.layout}
    changes = [f"--config.data.{key}={value}" for key, value in flags.items() if value is not None]
    named = apply_changes(config, [*rest, *changes], only=("data", "data.calibration"))
    check_config(config)
    data = config.data
    options: dict[str, Any] = {
        "categories": name_list(data.categories),
        "options": layout_options(data),
        "calibration": data.calibration,
    }
    if args.config or "data.image_size" in named:
        options["image_size"] = tuple(data.image_size)
    known = args.config or "data.layout" in named
    return data.root, data.layout if known else "", options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        args, rest = make_parser().parse_known_args(arguments)
    except SystemExit as stop:  # argparse's own: --help or an unusable flag
        return int(stop.code or 0)
    try:
        code = _JOBS[args.run](args, rest)
    except InputError as error:
        print(f"jaxad: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
        told = InputError(f"{where}{error.strerror}: make room, then run again")
        print(f"jaxad: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxad: interrupted", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print("jaxad: stopped; the same command goes on from here", file=sys.stderr)
        return 128 + stopped.signal
    return code or 0


_FULL = (errno.ENOSPC, errno.EDQUOT)
"""A full disk may be met anywhere: in caches, temporary files, standard output."""


_JOBS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "audit": _audit,
    "predict": _predict,
    "serve": _serve,
    "calibrate": _calibrate,
    "update": _update,
    "export": _export,
    "status": _status,
    "data check": _data_check,
}
"""By what the parser calls them."""

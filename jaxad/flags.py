"""What the command line takes: the parser of everything but the configuration."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of everything but the configuration."""
    parser = argparse.ArgumentParser(
        prog="jaxad", description="The command line `jaxad`.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser(
        "train",
        allow_abbrev=False,
        help="train and evaluate a detector for every category",
        usage="jaxad train --config FILE[:ARGUMENT] --workdir DIR [--overwrite] "
        "[--config.a.b=V ...]",
        description="FILE is a configuration, or the name of one that comes with jaxad, such as "
        "mb_pfm_lite. docs/configuration.md lists its keys.",
    )
    train.add_argument("--workdir", type=_folder, required=True, help="folder to make")
    train.add_argument("--overwrite", action="store_true", help="replace a run in --workdir")
    several = train.add_argument_group(
        "several processes", "in SLURM, GKE and Open MPI they find each other without these"
    )
    several.add_argument("--coordinator", help="HOST:PORT of the first process")
    several.add_argument("--num-processes", type=int, help="how many there are")
    several.add_argument("--process-id", type=int, help="which one this is: 0, 1, ...")
    train.set_defaults(run="train")

    evaluate = commands.add_parser(
        "evaluate",
        allow_abbrev=False,
        help="score and measure a trained detector again",
        usage="jaxad evaluate --workdir DIR [--config.data.root=DIR ...]",
        description="Keys below data, score and report may differ from training's: where photos "
        "are now, which categories are wanted.",
    )
    evaluate.add_argument("--workdir", type=_folder, required=True, help="folder of `jaxad train`")
    evaluate.set_defaults(run="evaluate")

    audit = commands.add_parser(
        "audit",
        allow_abbrev=False,
        help="measure a trained detector by every convention: why a figure is not a paper's",
        usage="jaxad audit --workdir DIR [--against DIR] [--category NAME] [--resamples N] "
        "[--config.data.root=DIR ...]",
        description="Scores the test photos once, and writes audit.json and the report; "
        "results.json stays. docs/audit.md says what the rows are.",
    )
    audit.add_argument("--workdir", type=_folder, required=True, help="folder of `jaxad train`")
    audit.add_argument(
        "--against", type=_folder, help="another one, judged on the same photos: their difference"
    )
    audit.add_argument("--category", help="the only one that is measured")
    audit.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap over photos; 1000"
    )
    audit.set_defaults(run="audit")

    predict = commands.add_parser(
        "predict",
        allow_abbrev=False,
        help="judge photos: one table, and what is drawn of them",
        usage="jaxad predict (--workdir DIR | --model FILE) (PATH ... --out DIR | --watch DIR) "
        "[options]",
        description="PATH is a photo, a folder with all below it, a pattern, or - for a list of "
        "paths on standard input. The same command goes on where it was stopped. docs/predict.md "
        "says what the table has.",
    )
    _add_judge(predict)
    predict.add_argument("photos", nargs="*", metavar="PATH", help="what to judge")
    predict.add_argument("--out", type=_folder, help="folder of the results")
    predict.add_argument("--maps", action="store_true", help="write score maps (npz, float32)")
    predict.add_argument("--overlays", action="store_true", help="write heatmaps over the photos")
    predict.add_argument("--masks", action="store_true", help="write what is anomalous as PNG")
    predict.add_argument("--max-errors", type=int, help="give up at more unreadable photos")
    predict.add_argument(
        "--fail-on-anomaly", action="store_true", help="exit with 1 if a photo is anomalous"
    )
    predict.add_argument("--overwrite", action="store_true", help="replace the results in --out")
    predict.add_argument("--watch", type=_folder, help="judge what arrives here, until stopped")
    predict.add_argument(
        "--poll", action="store_true", help="look at --watch every second (network disks)"
    )
    predict.set_defaults(run="predict")

    serve = commands.add_parser(
        "serve",
        allow_abbrev=False,
        help="judge photos that are sent by HTTP",
        usage="jaxad serve (--workdir DIR | --model FILE) [--host ADDRESS] [--port N] [options]",
        description="POST a photo's file to /v1/judge; the page at / does. SIGTERM or Ctrl-C: what "
        "is in flight is answered, exit code 0. docs/serve.md says what is answered.",
    )
    _add_judge(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on; 127.0.0.1")
    serve.add_argument("--port", type=int, default=8000, help="8000; 0 takes a free one")
    serve.add_argument("--max-body", type=_number, default=32.0, help="MB of a photo's file; 32")
    serve.add_argument("--queue", type=int, default=256, help="photos in flight, at most; 256")
    serve.add_argument(
        "--allow-host", action="append", default=[], help="name that the server goes by, too"
    )
    serve.set_defaults(run="serve")

    calibrate = commands.add_parser(
        "calibrate",
        allow_abbrev=False,
        help="draw the line between normal and anomalous by photos of normal parts",
        usage="jaxad calibrate --workdir DIR [PHOTOS] [--false-alarm RATE] [--confidence SHARE] "
        "[--category NAME] [--subclass NAME] [--add] [--leave-out PHOTO ...]",
        description="PHOTOS is a folder of normal ones that training has not seen; without it the "
        "scores that are kept serve for another rate. docs/calibration.md says what is promised.",
    )
    calibrate.add_argument("--workdir", type=_folder, required=True, help="folder of `jaxad train`")
    calibrate.add_argument("photos", type=_folder, nargs="?", help="folder of normal photos")
    calibrate.add_argument(
        "--false-alarm", type=float, help="share of normal photos, 0 to 1; default: as before"
    )
    calibrate.add_argument(
        "--confidence", type=float, help="that the rate holds for this calibration; 0: on average"
    )
    calibrate.add_argument("--category", help="of PHOTOS, where there are several")
    calibrate.add_argument("--subclass", default="", help="of PHOTOS, where parts come in kinds")
    calibrate.add_argument("--add", action="store_true", help="to the scores that are kept")
    calibrate.add_argument(
        "--leave-out",
        nargs="+",
        default=[],
        metavar="PHOTO",
        help="photos that calibrate and are no normal parts, by their files",
    )
    calibrate.set_defaults(run="calibrate")

    update = commands.add_parser(
        "update",
        allow_abbrev=False,
        help="add normal photos to a memory bank, or have it forget some",
        usage="jaxad update --workdir DIR [--add DIR] [--forget PATH ...] [--forget-list FILE] "
        "[--category NAME]",
        description="For methods with a bank (PatchCore). Nothing is trained; calibrate and "
        "evaluate again afterwards. docs/baselines.md says how members are chosen.",
    )
    update.add_argument("--workdir", type=_folder, required=True, help="folder of `jaxad train`")
    update.add_argument("--add", type=_folder, metavar="DIR", help="folder of normal photos")
    update.add_argument(
        "--forget", type=_folder, nargs="+", default=[], metavar="PATH", help="learnt photos"
    )
    update.add_argument(
        "--forget-list", type=_folder, metavar="FILE", help="paths of them, one a line"
    )
    update.add_argument("--category", help="of the photos, where there are several")
    update.set_defaults(run="update")

    export = commands.add_parser(
        "export",
        allow_abbrev=False,
        help="write a trained detector as one file that jax and numpy run",
        usage="jaxad export --workdir DIR --out FILE [--detector NAME] [--platforms cpu,cuda,tpu] "
        "[--no-photos] [--overwrite] [--config.data.root=DIR ...]\n"
        "       jaxad export --workdir DIR --out FILE --to onnx|openvino [--batch-size N] "
        "[--detector NAME] [--overwrite]",
        description="The file is read back and scores photos of the data set; it is left only if "
        "it does as the work directory. docs/export.md says what is in it.",
    )
    export.add_argument("--workdir", type=_folder, required=True, help="folder of `jaxad train`")
    export.add_argument("--out", type=_folder, required=True, help="file to write")
    export.add_argument("--detector", help="a category, or all; where there are several")
    export.add_argument("--platforms", default="cpu,cuda,tpu", help="what the file is to run on")
    export.add_argument(
        "--no-photos", dest="photos", action="store_false", help="compare by generated images alone"
    )
    export.add_argument("--overwrite", action="store_true", help="replace an exported file")
    export.add_argument(
        "--to", choices=("jaxad", "onnx", "openvino"), default="jaxad", help="docs/runtimes.md"
    )
    export.add_argument(
        "--batch-size", type=int, default=1, help="photos that a graph of --to takes; 1"
    )
    export.set_defaults(run="export")

    status = commands.add_parser(
        "status",
        allow_abbrev=False,
        help="say what a run has done, is doing, and has left",
        usage="jaxad status DIR",
        description="Reads the work directory alone, whether its run goes on, has ended or was "
        "killed.",
    )
    status.add_argument("workdir", type=_folder, help="folder of `jaxad train`")
    status.set_defaults(run="status")

    data = commands.add_parser("data", help="look at a data set").add_subparsers(required=True)
    check = data.add_parser(
        "check",
        allow_abbrev=False,
        help="count images and list every problem",
        usage="jaxad data check [ROOT] [--layout NAME] [--config FILE] [--decode] "
        "[--config.data.a=V ...]",
        description="The data set is read as training reads it: keys below data, such as "
        "--config.data.categories or --config.data.folder.normal, mean the same. With --decode and "
        "an image size, masks are counted that vanish at that size.",
    )
    check.add_argument("root", nargs="?", help="default: data.root")
    check.add_argument("--layout", help="data.layout; default: guessed from the folder")
    check.add_argument("--config", help="a configuration, whose data is checked")
    check.add_argument("--decode", action="store_true", help="decode every image, not only headers")
    check.set_defaults(run="data check")
    return parser


def _add_judge(parser: argparse.ArgumentParser) -> None:
    """What `runs.models.open_judge` takes."""
    parser.add_argument("--workdir", type=_folder, help="folder of `jaxad train`, calibrated")
    parser.add_argument("--model", type=_folder, help="file of `jaxad export`, instead")
    parser.add_argument("--category", help="of the photos; needed where there are several")
    parser.add_argument("--subclass", help="of the photos, where limits go by it")
    parser.add_argument("--false-alarm", type=float, help="another rate than the calibration's")
    parser.add_argument("--batch-size", type=int, help="photos scored at once, at most")
    parser.add_argument("--runtime", help="what scores (docs/runtimes.md)")


def _folder(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("name a folder")
    return Path(text)


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise argparse.ArgumentTypeError("give a number")
    return number

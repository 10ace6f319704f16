"""Choose among settings of a recipe without a test photo: parts held out, and defects made of them.

    python -m benchmarks.choose --config configs/adapted_moe.py:magnetic_tile \
      --config.data.root=FOLDER/magnetic_tile --config.data.train_subclasses=exp1,exp2,exp3,exp4 \
      --try "none: method.adaption=False" \
      --try "half: method.share=0.5 method.adapt_training=True" \
      [--folds 5] [--seeds 2] [--json FILE]

A setting may be another configuration, too: --try "mapping: config=adapted_moe_of:mb_pfm_lite".

Every setting is trained without a part of the training photos, and judged on that part: its photos
as they are, and with a piece pasted into each (`jaxad.data.cut_paste`). A part is a subclass where
training photos have several, so that what is chosen is what serves kinds of parts never seen; else
one of `--folds`. The best has the largest mean of image AUROC and pixel AUROC over the parts. Where
the best leads by less than one standard error of the parts' differences, the setting that is named
earlier is as good, and chosen: name the simplest first.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.ablation import Data, Test, features_of, measure, score_features
from benchmarks.measure import machine, markdown
from jaxad.config import apply_changes, parse_config
from jaxad.data.cut_paste import cut_paste
from jaxad.data.jobs import Job
from jaxad.data.manifest import Manifest
from jaxad.data.reading import Reading
from jaxad.errors import InputError
from jaxad.files import write_json
from jaxad.parallel import data_parallel
from jaxad.recipes.build import build_backbones, models
from jaxad.runs.dataset import jobs_of, read_dataset, reading_of
from jaxad.runs.train import budget_of
from jaxad.training import feature_cache as features
from jaxad.training.fit import Trainer

METRICS = ("image_auroc", "pixel_auroc", "aupro_0.30")
CHOSEN_BY = ("image_auroc", "pixel_auroc")


class Pasted(Reading):
    """Reads photos with a piece pasted into each; which, goes by the photo's place alone."""

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Batches as `Reading.batches` has them, with masks of the pieces."""
        count = 0
        for batch in super().batches(*args, **kwargs):
            draws = [np.random.default_rng([count + n, 20]) for n in range(len(batch["image"]))]
            made = [cut_paste(image, draw) for image, draw in zip(batch["image"], draws)]
            count += len(made)
            images, masks = (np.stack(found) for found in zip(*made))
            yield {**batch, "image": images, "mask": masks}


class Photos:
    """The training photos of one detector: features as they are, and with a piece pasted in."""

    def __init__(self, config: Any) -> None:
        """Read and compute."""
        manifest, self.backbones = read_dataset(config), build_backbones(config)
        self._of = features_of(config, self.backbones)
        (self.job,) = jobs_of(manifest, config)
        self.root = manifest.root
        self.parallel = data_parallel("jit", devices=jax.local_devices()[:1])
        photos = Manifest(manifest.root, self.job.train)
        plain = reading_of(config, self.backbones)
        masks: list[Any] = []
        self.good = self.trainer(config, plain).extract(photos, self.job.name)

        def seen(batch: Any) -> None:
            masks.append(batch["mask"][batch["_mask"]])

        pasted = self.trainer(config, Pasted(*dataclasses.astuple(plain)))
        self.bad = pasted.extract(photos, "pasted", seen=seen)
        self.masks = np.concatenate(masks)

    def serve(self, config: Any) -> bool:
        """Whether these are the features that the configuration reads."""
        return bool(self._of == features_of(config, build_backbones(config)))

    def without(self, name: str, out: np.ndarray[Any, Any]) -> Data:
        """A detector's data: it learns the rest, and is judged by the photos `out`."""
        rest = np.setdiff1d(np.arange(len(self.job.train)), out)
        test = Test(
            {key: np.concatenate([x[out], self.bad[key][out]]) for key, x in self.good.items()},
            np.repeat([0, 1], len(out)),
            np.concatenate([np.zeros_like(self.masks[out]), self.masks[out]]),
            np.ones(2 * len(out), bool),
            len(rest),
        )
        job = Job(self.job.name, tuple(self.job.train[i] for i in rest), {})
        learnt = features.take_images(self.good, rest)
        return Data(job, self.root, self.backbones, self.parallel, learnt, {name: test})

    def trainer(self, config: Any, reading: Reading) -> Trainer:
        """A trainer of the whole set, or of a part of it."""
        return Trainer(
            self.backbones,
            models(config, self.backbones),
            dataclasses.replace(budget_of(config, self.parallel), feature_cache="host"),
            reading,
            self.parallel,
            capacity=len(self.job.train),
        )


def parts(job: Job, folds: int) -> dict[str, np.ndarray[Any, Any]]:
    """What is left out in turn: each subclass, or each of `folds` shares of the photos.

    Raises:
        InputError: There are too few photos.
    """
    kinds = np.asarray([record.subclass for record in job.train])
    names = sorted(set(kinds.tolist()))
    if len(names) < 2:
        return shares(len(kinds), folds)
    return {name: np.flatnonzero(kinds == name) for name in names}


def shares(count: int, folds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Divide `count` photos into so many shares, at random.

    Raises:
        InputError: There are too few photos.
    """
    if not 2 <= folds <= count:
        raise InputError(f"{count} training photos can not make {folds} parts (--folds)")
    order = np.random.default_rng(0).permutation(count)
    return {str(n): np.sort(order[n::folds]) for n in range(folds)}


def judge(
    config: Any, photos: Photos, left: Mapping[str, np.ndarray[Any, Any]], seeds: int
) -> dict[str, dict[str, float]]:
    """Metrics on each part of a detector that is trained without it, a mean of seeds."""
    size = tuple(config.data.image_size)
    trainer = photos.trainer(config, reading_of(config, photos.backbones))
    found = {}
    for name, out in left.items():
        data = photos.without(name, out)
        each = []
        for seed in range(seeds):
            fit = trainer.fit(data.job, data.root, lambda **_: None, seed=seed, cache=data.train)
            score = partial(score_features, fit.model.detector.method, size)
            each.append(measure(score, fit.variables, data.test[name], config.score.batch_size))
        found[name] = {metric: float(np.mean([one[metric] for one in each])) for metric in METRICS}
    return found


def chosen(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The setting that is best, or one named earlier that is as good.

    Args:
        rows: Setting -> part -> metrics, in the order of naming.
    """
    value = {
        name: np.asarray([np.mean([part[m] for m in CHOSEN_BY]) for part in row.values()])
        for name, row in rows.items()
    }
    best = max(value, key=lambda name: value[name].mean())
    for name, own in value.items():
        lead = value[best] - own
        error = lead.std(ddof=1) / np.sqrt(len(lead)) if len(lead) > 1 else 0.0
        if lead.mean() <= error:
            return name
    return best


class Setting(NamedTuple):
    """What is tried."""

    config: str | None
    """Of its own; None: that of all settings."""
    flags: list[str]


def settings(tries: Sequence[str]) -> dict[str, Setting]:
    """What is tried by name, of `NAME: [config=CONFIGURATION] key=value key=value`.

    Raises:
        InputError: One has no name, or a name that is taken.
    """
    found: dict[str, Setting] = {}
    for text in tries:
        name, colon, rest = text.partition(":")
        if not colon or not name.strip() or name.strip() in found:
            raise InputError(
                f"--try {text!r}: give each setting a name of its own, NAME: key=value"
            )
        config, changes = None, shlex.split(rest)
        if changes and changes[0].startswith("config="):
            config = changes.pop(0).removeprefix("config=")
        found[name.strip()] = Setting(config, [f"--config.{change}" for change in changes])
    return found


def main() -> None:
    """Try all settings, and name the one to take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    parser.add_argument("--try", action="append", required=True, dest="tries")
    parser.add_argument("--folds", type=int, default=5, help="where there are no subclasses")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all results here, after every setting")
    args, changes = parser.parse_known_args()
    tried = settings(args.tries)
    photos: Photos | None = None
    rows: dict[str, Any] = {}
    for name, setting in tried.items():
        config = parse_config(["--config", setting.config or args.config, *changes])
        apply_changes(config, setting.flags)
        if photos is None or not photos.serve(config):
            photos = Photos(config)
        left = parts(photos.job, args.folds)
        rows[name] = judge(config, photos, left, args.seeds)
        print(name, {p: {k: round(v, 4) for k, v in m.items()} for p, m in rows[name].items()})
        sys.stdout.flush()
        if args.json:
            about = {"date": datetime.date.today().isoformat(), "machine": machine()}
            write_json(args.json, {**about, "rows": rows, "chosen": chosen(rows)})
    means = [
        (name, *(f"{np.mean([part[m] for part in row.values()]):.4f}" for m in METRICS))
        for name, row in rows.items()
    ]
    print(markdown(("setting", *METRICS), means))
    print(f"chosen: {chosen(rows)}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))

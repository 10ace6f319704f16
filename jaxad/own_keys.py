"""jaxad's own configuration keys: all but those below `method`, which recipes declare.

docs/configuration.md is made from these declarations.
"""

from __future__ import annotations

from typing import Any

from jaxad.data.augment import KINDS
from jaxad.data.calibration_split import LEAST, SHARE
from jaxad.data.images import FILTERS
from jaxad.data.layouts import LAYOUTS
from jaxad.keys import Key, choice, flag, integer, number, several, text
from jaxad.runtimes.engines import RUNTIMES

MOST_SEED = 2**32 - 1
"""The largest seed that jax, numpy and scikit-learn all take."""

KEYS: dict[str, Key] = {
    "weights": Key("", text(), "folder of converted weights; '' = $JAXAD_WEIGHTS or ports/weights"),
    "data.root": Key("", text(), "folder of the data set; '' only where a package holds it (elpv)"),
    "data.layout": Key("mvtec_ad", choice(*sorted(LAYOUTS)), "how its files lie"),
    "data.categories": Key(
        "", text(), "names with commas, '' = all (cifar10: 01234,56789,02468,13579)"
    ),
    "data.train_subclasses": Key("", text(), "names with commas of those to train on, '' = all"),
    "data.test_subclasses": Key(
        "",
        text(),
        "names with commas of those to test on, '' = all; results are then one for each, "
        "named category-subclass",
    ),
    "data.calibration": Key(
        SHARE,
        number(least=0, most=0.5),
        "share of the training photos that is not trained on, to set thresholds by: chosen by "
        f"their content, in each category at least {LEAST}, at most half; 0 = none; unused where a "
        "manifest names calibration photos",
    ),
    "data.one_for_all": Key(False, flag(), "one detector for all categories instead of one each"),
    "data.image_size": Key(
        (256, 256),
        several(integer(least=1, most=8192), count=2, empty=False, what="values"),
        "height and width that photos are resized to, pixels",
    ),
    "data.resize": Key(
        "", choice("", *FILTERS), "Pillow's filter for photos; '' = that of the weights"
    ),
    "data.workers": Key(
        0, integer(least=0, most=256), "decoding processes; 0 = threads of this process"
    ),
    "data.prepared": Key(
        "auto",
        text(empty=False),
        "photos decoded once, then read from array_record: auto (where a run reads them more than "
        "once; deleted when it ends), off, or a folder to keep them in",
    ),
    "data.folder.normal": Key("good", text(empty=False), "layout folder: photos of normal parts"),
    "data.folder.normal_test": Key(
        "", text(), "layout folder: normal photos to test on; '' = a fifth of `normal`"
    ),
    "data.folder.abnormal": Key("bad", text(), "layout folder: photos of defective parts, if any"),
    "data.folder.masks": Key("masks", text(), "layout folder: their masks, if any (same stem)"),
    "data.folder.category": Key(
        "", text(), "layout folder: name of the parts; '' = the folder's, which a run keeps"
    ),
    "data.texture_ad.train": Key(
        "{category}/{subclass}/train/{label}/{name}",
        text(empty=False),
        "layout texture_ad: where training images are, without their endings",
    ),
    "data.texture_ad.test": Key(
        "{category}/{subclass}/test/{label}/{name}",
        text(),
        "layout texture_ad: test images; '' = none",
    ),
    "data.texture_ad.masks": Key(
        "{category}/{subclass}/ground_truth/{label}/{name}_mask",
        text(),
        "layout texture_ad: masks; '' = none",
    ),
    "data.join": Key(
        (),
        several(several(text(), empty=False, what="texts"), what="data sets"),
        "layout join: each (layout, root) or (layout, root, categories), roots as data.root above",
    ),
    "train.epochs": Key(
        200,
        integer(least=1, most=10**6),
        "passes over the training images; unused where train.steps is given",
    ),
    "train.batch_size": Key(
        8,
        integer(least=1, most=65536),
        "images a step, over all devices; rounded up to what subclasses and devices share",
    ),
    "train.steps": Key(
        (),
        several(integer(least=1, most=10**9), what="phases"),
        "steps of each phase; () = by epochs",
    ),
    "train.positions": Key(
        (),
        several(integer(least=0, most=10**8), what="phases"),
        "random positions a step, of each phase; () or 0 = whole maps",
    ),
    "train.seed": Key(888, integer(least=0, most=MOST_SEED), "of all that is drawn"),
    "train.replicates": Key(
        1, integer(least=1, most=1000), "runs with seeds seed, seed + 1, ...: mean and sd of all"
    ),
    "train.parallel": Key("pmap", choice("pmap", "jit"), "how steps run on several devices"),
    "train.dtype": Key(
        "float32",
        choice("float32", "bfloat16"),
        "in which networks compute, frozen or trained; weights, optimizer, statistics and losses "
        "stay float32 (docs/precision.md)",
    ),
    "train.accumulate": Key(
        1,
        integer(least=1, most=65536),
        "parts that a step's batch is computed in, one after the other, and gradients averaged: "
        "for batches that do not fit. BatchNorm then normalises each part by itself, its running "
        "variance is the mean of the parts' own, and the router's centres move by the mean of what "
        "each part moves them; all else is as in one part. Batches are rounded up to what "
        "subclasses, devices and parts share",
    ),
    "train.feature_cache": Key(
        "auto",
        choice("auto", "device", "host", "off"),
        "where features of the frozen networks are kept; off = computed in every step",
    ),
    "train.cache_dtype": Key(
        "float32", choice("float32", "float16"), "of kept features; float16 takes half the memory"
    ),
    "train.augment": Key(
        (),
        several(choice(*KINDS), distinct=True, what="kinds"),
        "how photos are changed at random, anew in every step: mirrored left to right, upside "
        "down, by quarter turns (squares), moved by up to a sixteenth; features are then computed "
        "in every step (feature_cache auto or off)",
    ),
    "train.sampling": Key(
        "natural",
        choice("natural", "balanced"),
        "balanced = every category equally often: the smaller ones' images come again, in every "
        "epoch others of them",
    ),
    "train.holdout": Key(
        0.0,
        number(least=0, below=1),
        "share of the training images that is not trained on, for the held-out loss",
    ),
    "train.log_every": Key(
        50,
        integer(least=1, most=10**9),
        "steps between two lines of train.jsonl; held-out images are measured as often",
    ),
    "train.profile": Key(
        (),
        several(integer(least=1, most=10**9), count=2, what="steps"),
        "first and last step of the first phase to be traced into profile/; () = none",
    ),
    "track": Key(
        "",
        choice("", "tensorboard", "wandb", "mlflow"),
        "where lines of train.jsonl go besides; '' = nowhere (tensorboard: into track/, the "
        "others as their own settings say)",
    ),
    "checkpoint.every_minutes": Key(
        5.0,
        number(least=0, most=10**6),
        "minutes of training between two saves, from which a stopped run goes on; 0 = only where a "
        "phase ends",
    ),
    "checkpoint.every_steps": Key(
        0,
        integer(least=0, most=10**9),
        "steps between two saves, beside every_minutes; 0 = by time alone",
    ),
    "checkpoint.keep": Key(
        2, integer(least=1, most=1000), "saves of a detector that are kept until it is finished"
    ),
    "checkpoint.features": Key(
        False,
        flag(),
        "keep features of the frozen networks on disk too, instead of computing them anew when a "
        "stopped run goes on",
    ),
    "score.batch_size": Key(
        8, integer(least=1, most=65536), "images a program call, over all devices"
    ),
    "score.runtime": Key(
        "xla",
        choice(*RUNTIMES),
        "what scores: JAX's own, or another on this machine's CPU (docs/runtimes.md)",
    ),
    "calibrate.false_alarm": Key(
        0.05,
        number(above=0.0, below=1.0),
        "largest share of normal photos that may be called anomalous; jaxad calibrate changes it",
    ),
    "calibrate.confidence": Key(
        0.0,
        number(least=0.0, below=1.0),
        "share of calibration sets for which that holds; 0 = on average over them",
    ),
    "report.examples": Key(
        6, integer(least=0, most=100), "photos a category of each kind: found, missed, false alarms"
    ),
}
"""All keys but those below `method`."""

ADDED: dict[str, Any] = {
    "data.calibration": 0.0,  # all were trained on
    "calibrate.false_alarm": KEYS["calibrate.false_alarm"].default,
    "calibrate.confidence": KEYS["calibrate.confidence"].default,
    "score.runtime": "xla",
    "train.augment": (),
}
"""Keys that came after work directories of this `FORMAT`, and what they were for their runs."""

EVALUATION = ("weights", "data", "score", "report", "train.parallel")
"""What `jaxad evaluate` may be told anew: where photos are and how they are scored."""

TRAINING = ("data.calibration",)
"""What belongs to the training all the same: keys in a section that may change."""

MAY_CHANGE = (
    *("weights", "data.root", "data.workers", "data.prepared", "train.log_every"),
    *("checkpoint.every_minutes", "checkpoint.every_steps", "checkpoint.keep"),
    *("checkpoint.features", "report.examples", "train.profile", "track"),
    *("calibrate.false_alarm", "calibrate.confidence"),
)
"""What may change when a stopped run goes on: nothing of it decides what is learnt or measured.
That folders hold the same data and weights is seen by their fingerprints."""

"""Every configuration key, its default and its unit; how configurations are read and kept."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad.errors import InputError

FORMAT = 1
"""Version of `config.json` and of a work directory's layout."""


METHODS: dict[str, dict[str, Any]] = {
    "pfm": {
        "source": "resnet34",  # architecture or weights file of the source network
        "target": "resnet50",  # … and of the target network
        "random_weights": False,  # random instead of converted weights (Table VII, case 9)
        "levels": (1, 2, 3),  # hierarchies to map, any subset
        "source_levels": (),  # the three levels' names; () = the architecture's own
        "target_levels": (),
        "latent": (200, 400, 900),  # c of hierarchy 1, 2, 3
        "learning_rate": (3e-3, 3e-4, 3e-4),  # of hierarchy 1, 2, 3 (peak, if scheduled)
        "one_cycle": False,  # cosine one-cycle schedule instead of a constant rate
        "weight_decay": 1e-5,
        "decoupled_weight_decay": False,  # AdamW instead of Adam with L2
        "bidirectional": True,
        "normalise_output": False,  # as Eq. 7 and 8 are printed; the authors' code does not
        "conv_block_everywhere": False,  # Table I's footnote 2 for Layer3 and Layer6 too
        "zero_output": False,  # start Layer6 at zero (ours)
        "smoothing": 0.0,  # Gaussian on the score map, standard deviation in pixels
        "top_share": 0.0,  # image score = mean of this share of highest pixels; 0 = max
    },
    "afrad": {
        "backbone": "efficientnet_b4",  # architecture or weights file
        "random_weights": False,  # random instead of converted weights
        "levels": (),  # names of the stages S_1, S_2, ..., shallow first; () = the usual four
        "width": (64, 96, 128, 256),  # d_i: channels of each stage's tokens
        "patch_kernel": (8, 4, 2, 1),  # of each stage's patch embedding
        "patch_stride": (8, 4, 2, 1),  # its positions per token
        "refinements": (1, 1, 1, 1),  # feature refinement modules of each stage (Eq. 2)
        "decodings": (1, 1, 2, 2),  # MLPs of each stage in the stage-adaptive decoder (Eq. 3)
        "grid": 4,  # the stage at whose resolution features are reconstructed
        "decoder_width": 256,  # channels of the three decoders
        "local": (1, 2),  # stages of the focused local decoder; () = without it
        "compensation": (1, 2),  # … of the compensation decoder
        "adaptive": (1, 2, 3, 4),  # … of the stage-adaptive decoder
        "local_kernels": (5, 7),  # p of Eq. 8
        "compensation_refinements": 1,
        "mlp_ratio": 4,  # inner width of every MLP over its outer
        "ngib_layers": 1,  # 0 = the decoders' outputs are added
        "refine": True,  # False = without the feature refinement module (Table 7)
        # Groups of stages, each rebuilt without being seen, e.g. ((1,2,3),(4,)); () = all from all
        "hidden": (),
        "normalise": 0.0,  # divide each position's features by this power of their length (ours)
        "jitter": 1.2,  # noise on the features in training, in units of their root mean square
        "sum_of_scales": False,  # loss: sum over stages instead of the mean over channels
        "map_length": 0.0,  # the score map gives this power of their length back (ours)
        "image_stages": (),  # stages that the image score is taken from; () = the score map
        "pooling": 16,  # pixels of the average pooling before the maximum; 0 = mean of the map
        "top_share": 0.0,  # image score = mean of this share of highest pooled pixels; 0 = max
        "learning_rate": 1e-4,
        "weight_decay": 1e-4,
        "clip": 0.1,  # largest global norm of the gradient; 0 = any
        "one_cycle": False,  # cosine one-cycle schedule instead of one step down
    },
    "simplenet": {
        "backbone": "wide_resnet50_2",  # architecture or weights file
        "random_weights": False,  # random instead of converted weights
        "levels": ("layer2", "layer3"),  # the one whose resolution counts first
        "embedding": 1536,  # channels of the patch features
        "hidden": 1024,  # width of the discriminator
        "noise": 0.015,  # standard deviation of the noise on adapted features
        "margin": 0.5,
        "learning_rate": (1e-4, 2e-4),  # of adaptor, discriminator
        "weight_decay": (1e-2, 1e-5),  # of adaptor (decoupled), discriminator (L2)
        "smoothing": 4.0,  # Gaussian on the score map, standard deviation in pixels
    },
}
METHODS["adapted_moe"] = {
    **METHODS["simplenet"],
    "moe": True,  # one expert a subclass; False: one for all, and no router
    "adaption": True,  # calibrate test images to the expert (Eq. 5)
    "normalise_embedding": True,  # x of the router to length 1
    "normalise_patches": True,  # patch features to length 1 (Eq. 6)
    "clusters": 0,  # subclasses by k-means; 0 = as labelled, or else k by silhouette
    "top_k": 1,  # experts that judge an image
    "temperature": 0.1,  # of their weights (Eq. 4)
    "router_width": 256,  # C of Eq. 1
    "router_learning_rate": 1e-3,
    "centre_weight": 0.5,  # alpha of Eq. 2; 0 = cross-entropy alone
    "centre_rate": 0.5,  # of the centres' own steps
    "axes": "positions",  # Eq. 5's mean and standard deviation: positions | all | channels
    "spread": "image",  # an expert's standard deviation: of each "image" | of "all" together
    "centre": "patches",  # what Eq. 5 adds: mean of the expert's "patches" | "router"'s centre
}
"""Method name -> its keys under `method` and their defaults."""


def method_defaults(name: str) -> dict[str, Any]:
    """Return the keys of a method and their defaults.

    Raises:
        InputError: There is no such method.
    """
    if name not in METHODS:
        raise InputError(f"method.name is {name!r}: known are {', '.join(METHODS)}")
    return METHODS[name]


def default_config(method: str = "pfm") -> ConfigDict:
    """Return the default configuration of a method: as published, or as the authors' code has it.

    Raises:
        InputError: There is no such method.
    """
    return ConfigDict(
        {
            "weights": "",  # folder of converted weights; "" = $JAXAD_WEIGHTS or ports/weights
            "data": {
                "root": "",  # folder of the data set ("" only where a package holds it: elpv)
                # mvtec_ad | visa | cifar10 | elpv | texture_ad | folder | manifest | join
                "layout": "mvtec_ad",
                "categories": "",  # comma-separated, "" = all (cifar10: 01234,56789,02468,13579)
                # Subclasses to train on and to test on, comma-separated, "" = all. Results are one
                # for each subclass, `<category>-<subclass>`, where `test_subclasses` names some.
                "train_subclasses": "",
                "test_subclasses": "",
                "one_for_all": False,  # one detector for all categories instead of one each
                "image_size": (256, 256),  # (H, W) pixels, rectangles allowed
                "resize": "lanczos",  # Pillow's filter for photos; masks always take NEAREST
                "workers": 0,  # decoding processes; 0 = threads of this process
                # Photos decoded and resized once, to be read from array_record: "auto" (where a run
                # reads them more than once; deleted when it ends), "off", or a folder to keep them
                # in, for this run and others.
                "prepared": "auto",
                "folder": {  # layout `folder`: your own photos, paths below data.root
                    "normal": "good",  # photos of normal parts
                    "normal_test": "",  # normal photos to test on; "" = a fifth of `normal`
                    "abnormal": "bad",  # photos of defective parts, if there are any
                    "masks": "masks",  # their masks, if there are any (same stem)
                },
                # Layout `texture_ad`: where images are below data.root, without their endings; see
                # jaxad/data/layouts/texture_ad.py. test and masks may be "": there are none.
                "texture_ad": {
                    "train": "{category}/{subclass}/train/{label}/{name}",
                    "test": "{category}/{subclass}/test/{label}/{name}",
                    "masks": "{category}/{subclass}/ground_truth/{label}/{name}_mask",
                },
                # Layout `join`: data sets to put together, each (layout, root) or (layout, root,
                # categories), with roots as `root` above, relative to data.root.
                "join": (),
            },
            "method": {"name": method, **method_defaults(method)},
            "train": {
                "epochs": 200,  # passes over the training images; unused where `steps` is given
                "batch_size": 8,  # images
                "steps": (),  # steps of hierarchy 1, 2, 3, each trained alone; () = by epochs
                "positions": (),  # random positions a step, of hierarchy 1, 2, 3; () = whole maps
                "seed": 888,
                "replicates": 1,  # runs with seeds seed, seed + 1, ...: mean ± sd of all metrics
                "parallel": "pmap",  # pmap | jit
                "feature_cache": "auto",  # auto | device | host | off
                "cache_dtype": "float32",  # float32 | float16: half the memory
                "sampling": "natural",  # natural | balanced: every category equally often
                "holdout": 0.0,  # share of the training images kept for the held-out loss
                "log_every": 50,  # steps between two lines of train.jsonl
            },
            "score": {
                "batch_size": 8,  # images
            },
            "report": {
                "examples": 6,  # photos a category of each kind: found, missed, false alarms
            },
        }
    )


def _convert(name: str, text: str, old: Any) -> Any:
    """Read `text` as a value of the type that the key has."""
    try:
        if isinstance(old, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(old, (int, float, str)):
            return type(old)(text)
        if not text.strip("() ,"):
            return ()
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):  # bare names: layer1,layer2
            value = tuple(part.strip() for part in text.strip("()").split(","))
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)
    except (ValueError, KeyError) as error:
        kind = type(old).__name__
        raise InputError(f"--config.{name}={text}: the value is not of type {kind}") from error


def load_file(path: str) -> ConfigDict:
    """Run `FILE.py[:ARGUMENT]` and return what its `get_config` makes.

    Raises:
        InputError: No such file, or one that does not run.
    """
    name, _, argument = path.partition(":")
    file = Path(name)
    if not file.is_file():
        raise InputError(f"--config {name}: no such file; the project's own are in configs/")
    spec = importlib.util.spec_from_file_location(f"jaxad_config_{file.stem}", file)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if argument else []))
    # A configuration is a program of the user's: whatever it raises is theirs to read, in one line.
    except Exception as error:
        raise InputError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"--config {path}: get_config() returns no ml_collections.ConfigDict")
    return config


def parse_config(arguments: Sequence[str]) -> ConfigDict:
    """Read `--config FILE[:ARGUMENT]` and the changes `--config.a.b=VALUE`, in any order.

    Raises:
        InputError: No file, an unknown key, a value of another type, or anything else.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    if known.config is None:
        raise InputError("--config is missing: name a file of configs/, e.g. configs/mb_pfm.py")
    config = load_file(known.config)
    apply_changes(config, rest)
    return config


def apply_changes(config: ConfigDict, arguments: Sequence[str]) -> None:
    """Make the changes `--config.a.b=VALUE`.

    Raises:
        InputError: An unknown key, a value of another type, or anything else.
    """
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not key.startswith("--config.") or not equals:
            raise InputError(f"unknown argument {argument!r}: changes are --config.a.b=VALUE")
        name = key.removeprefix("--config.")
        *sections, leaf = name.split(".")
        place = config
        for section in [*sections, leaf]:
            if not isinstance(place, ConfigDict) or section not in place:
                near = sorted(place) if isinstance(place, ConfigDict) else []
                raise InputError(f"unknown configuration key {name!r}: known here are {near}")
            parent, place = place, place[section]
        parent[leaf] = _convert(name, text, place)


def write_json(path: Path, value: Any) -> None:
    """Write JSON to a temporary name beside `path`, then rename: never half a file."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n")
    temporary.replace(path)


def save_config(path: Path, config: ConfigDict, *, weights: dict[str, str]) -> None:
    """Write `config.json`: the configuration, and the SHA-256 of each role's weights file."""
    write_json(path, {"format": FORMAT, "config": config.to_dict(), "weights": weights})


def _update(config: ConfigDict, values: dict[str, Any], prefix: str = "") -> None:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in config:
            raise InputError(f"unknown configuration key {name!r}: the keys are {sorted(config)}")
        if isinstance(config[key], ConfigDict):
            _update(config[key], value, f"{name}.")
        else:
            value = tuple(value) if isinstance(value, list) else value
            if type(value) is not type(config[key]):
                raise InputError(f"configuration key {name!r} can not be {value!r}")
            config[key] = value


def load_config(path: Path) -> tuple[ConfigDict, dict[str, str]]:
    """Read `config.json` back: the configuration and the SHA-256 of each role's weights.

    Raises:
        InputError: Not a work directory, a damaged file, another format, or unknown keys.
    """
    try:
        stored = json.loads(path.read_text())
        fields = stored["format"], stored["config"], stored["weights"]
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is not a work directory (no config.json): train with --workdir first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): train again into a new --workdir"
        ) from error
    if fields[0] != FORMAT:
        raise InputError(f"{path} has format {fields[0]}, this jaxad reads {FORMAT}: train again")
    try:
        config = default_config(fields[1]["method"]["name"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error!r}): train again into a new --workdir"
        ) from error
    _update(config, fields[1])
    return config, dict(fields[2])

"""How a configuration is made, read, changed, checked and kept.

Its keys are those of `jaxad.own_keys`, and below `method` those that the recipe declares which
`method.name` names.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxad import keys
from jaxad.data.augment import check_kinds
from jaxad.errors import InputError
from jaxad.files import read_json, write_json
from jaxad.keys import Key, text
from jaxad.own_keys import ADDED, KEYS, MOST_SEED, TRAINING
from jaxad.recipes.build import recipe_named

FORMAT = 3
"""Version of `config.json` and of a work directory's layout."""


def keys_of(method: str) -> dict[str, Key]:
    """Return every key of a configuration for one method.

    Raises:
        InputError: There is no such recipe.
    """
    own = {f"method.{name}": key for name, key in recipe_named(method).keys.items()}
    name = Key(method, text(empty=False), "a recipe of jaxad, or package.module of one's own")
    return {**KEYS, "method.name": name, **own}


def default_config(method: str = "pfm") -> ConfigDict:
    """Return the default configuration of a method: as published, or as the authors' code has it.

    Raises:
        InputError: There is no such method.
    """
    values: dict[str, Any] = {}
    for name, key in keys_of(method).items():
        *sections, leaf = name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = key.default
    return ConfigDict(values)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value of a configuration by its dotted name."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (ConfigDict, dict)) and len(value):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def check_config(config: ConfigDict) -> None:
    """Refuse unknown keys, missing ones, and values that a key can not have.

    Raises:
        InputError: With the first of them, and what it may be.
    """
    known = _check_names(config)
    for name, value in flat(config).items():
        keys.check(name, known[name], value)
    train = config.train
    if train.seed + train.replicates - 1 > MOST_SEED:
        raise InputError(
            f"train.seed is {train.seed}: with train.replicates={train.replicates} give at most "
            f"{MOST_SEED - train.replicates + 1}"
        )
    if train.profile and train.profile[0] > train.profile[1]:
        raise InputError(
            f"train.profile is {tuple(train.profile)}: give the first step, then the last one"
        )
    check_kinds(train.augment, config.data.image_size)
    if train.augment and train.feature_cache in ("device", "host"):
        raise InputError(
            "train.augment changes photos in every step, so train.feature_cache can not be "
            f"{train.feature_cache}: set it to off, or leave train.augment empty"
        )


def _check_names(config: ConfigDict) -> dict[str, Key]:
    """Refuse unknown and missing keys; return those that are known."""
    method = config.get("method")
    if not isinstance(method, ConfigDict) or not isinstance(method.get("name"), str):
        raise InputError("method.name is missing: start from a file of configs/")
    known, given = keys_of(method.name), flat(config)
    missing, unknown = sorted(known.keys() - given.keys()), sorted(given.keys() - known.keys())
    for name in (*missing, *unknown):
        if name.startswith("method."):
            raise InputError(
                f"{name} does not go with method.name {method.name!r}: start from one of the "
                "method's own configurations in configs/"
            )
    if unknown:
        raise InputError(f"unknown configuration key {unknown[0]!r}: see docs/configuration.md")
    if missing:
        raise InputError(f"configuration key {missing[0]!r} is missing: start from default_config")
    return known


def shipped(name: str) -> Path | None:
    """Find the configuration of that name that comes with jaxad, in a checkout or installed."""
    here = Path(__file__).parent
    folders = (here / "configs", here.parent / "configs")
    return next((f / f"{name}.py" for f in folders if _is_file(f / f"{name}.py")), None)


def _is_file(path: Path) -> bool:
    """Whether there is one; not an error where there could not be one by that name."""
    return os.path.isfile(path)  # noqa: PTH113


def load_file(path: str) -> ConfigDict:
    """Return what `get_config` of `FILE.py[:ARGUMENT]` makes, or of a shipped `NAME[:ARGUMENT]`.

    Raises:
        InputError: No such file, or one that does not run.
    """
    name, _, argument = path.partition(":")
    own = shipped(name) if name.isidentifier() else None
    file = Path(name) if own is None else own
    if not _is_file(file):
        raise InputError(
            f"--config {name}: no such file; jaxad's own go by their name, such as mb_pfm_lite"
        )
    spec = importlib.util.spec_from_file_location(f"jaxad_config_{file.stem}", file)
    try:
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([argument] if argument else []))
        if isinstance(config, ConfigDict):  # a plain one: not frozen, no references or placeholders
            config = ConfigDict(config.to_dict())
    # A configuration is a program of the user's: whatever it raises is theirs to read, in one line.
    except (Exception, SystemExit) as error:
        raise InputError(f"--config {path}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"--config {path}: get_config() returns no ml_collections.ConfigDict")
    return config


def parse_config(arguments: Sequence[str]) -> ConfigDict:
    """Read `--config FILE[:ARGUMENT]` and the changes `--config.a.b=VALUE`, in any order.

    Raises:
        InputError: No file, an unknown key, an unusable value, or anything else.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    try:
        known, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    if known.config is None:
        raise InputError("--config is missing: name a configuration, such as mb_pfm_lite")
    config = load_file(known.config)
    apply_changes(config, rest)
    check_config(config)
    return config


def apply_changes(
    config: ConfigDict, arguments: Sequence[str], *, only: Sequence[str] = ()
) -> list[str]:
    """Make the changes `--config.a.b=VALUE`.

    Args:
        config: Changed in place.
        arguments: The changes.
        only: Sections or keys that may be changed; none: all. Those of `TRAINING` only by name.

    Returns:
        The names of the keys that were named.

    Raises:
        InputError: An unknown key, an unusable value, or anything else.
    """
    known = _check_names(config)
    named = []
    for argument in arguments:
        start, equals, given = argument.partition("=")
        if not start.startswith("--config.") or not equals:
            raise InputError(f"unknown argument {argument!r}: changes are --config.a.b=VALUE")
        name = start.removeprefix("--config.")
        if name not in known:
            section = [other for other in known if other.startswith(f"{name}.")]
            if section:
                raise InputError(f"{name} is a section: change a key of it, such as {section[0]}")
            above = name.rpartition(".")[0]
            near = sorted(n for n in known if n.rpartition(".")[0] == above) or sorted(
                {n.partition(".")[0] for n in known}
            )
            raise InputError(f"unknown configuration key {name!r}: known here are {near}")
        within = name not in TRAINING and any(name.startswith(f"{part}.") for part in only)
        if only and name not in only and not within:
            raise InputError(f"{name} belongs to the training: it can not be changed afterwards")
        place = config
        *sections, leaf = name.split(".")
        for part in sections:
            place = place[part]
        value = keys.read(name, known[name], given)
        with place.ignore_type():  # the key's own says more than that of the value before
            place[leaf] = value
        named.append(name)
    return named


def save_config(
    path: Path, config: ConfigDict, *, weights: Mapping[str, str], place: str = ""
) -> None:
    """Write `config.json`: a configuration, and what was found when it was read.

    Args:
        path: The file.
        config: The configuration.
        weights: SHA-256 by role.
        place: Where features are kept; '' where nothing is trained.
    """
    values = {"config": config.to_dict(), "weights": dict(weights), "feature_cache": place}
    write_json(path, {"format": FORMAT, **values})


def load_config(path: Path) -> tuple[ConfigDict, dict[str, str]]:
    """Read `config.json` back: the configuration and the SHA-256 of each role's weights.

    Raises:
        InputError: Not a work directory, a damaged file, another format, or unusable values.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent} is not a work directory (no config.json): train with --workdir first"
        )
    damaged = f"{path} is damaged: train again into a new --workdir"
    stored = read_json(path)
    if not isinstance(stored, dict) or "format" not in stored:
        raise InputError(damaged)
    if stored["format"] != FORMAT:
        raise InputError(
            f"{path} has format {stored['format']!r}, this jaxad reads {FORMAT}: train again"
        )
    values, weights = stored.get("config"), stored.get("weights")
    if not (
        isinstance(values, dict)
        and isinstance(weights, dict)
        and all(isinstance(digest, str) for digest in weights.values())
        and all(isinstance(value, dict) for name, value in values.items() if name not in KEYS)
    ):
        raise InputError(damaged)
    try:
        config = ConfigDict(_tuples(values))
        for name, value in ADDED.items():
            section, _, leaf = name.partition(".")
            if section not in config:
                config[section] = ConfigDict()
            if leaf not in config[section]:
                config[section][leaf] = value
        check_config(config)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} does not fit this jaxad: {error}") from error
    return config, weights


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value

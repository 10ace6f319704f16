"""Train, evaluate and load, end to end on small synthetic parts with random networks."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxad
from jaxad.backbones import ARCHITECTURES, Variant, weights
from jaxad.config import load_file
from jaxad.core import InputError
from jaxad.data.images import decode_image
from jaxad.data.synthetic import write_dataset
from jaxad.detector import Cost
from jaxad.main import main
from jaxad.recipes.build import build_backbones, models
from jaxad.runs.evaluate import evaluate
from jaxad.runs.export import export
from jaxad.runs.lock import locked
from jaxad.runs.train import describe, train

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "parts"
    write_dataset(
        root,
        categories=("disc",),
        n_train=10,
        n_test_good=3,
        n_test_bad=4,
        size=(48, 48),
        seed=0,
    )
    return root


def write_random_weights(folder: Path, name: str = "resnet18") -> None:
    """A weight file of a random network, as `python -m ports convert` would write it."""
    backbone, variables = weights.init_backbone(name, jax.random.key(0))
    every = list(ARCHITECTURES[name].levels)
    levels = tuple(every[: 1 + max(map(every.index, backbone.levels))])
    weights.write(
        folder / f"{name}.safetensors",
        variables,
        metadata=weights.Metadata(
            name, levels, True, "random", "0", "", "none", backbone.preprocess, Variant()
        ),
    )


def tiny(config: Any, dataset: Path) -> Any:
    """The same programs at a small size, at which three levels have more than a position."""
    config.data.root = str(dataset)
    config.data.layout = "mvtec_ad"
    config.data.image_size = (32, 48)
    config.method.latent = (4, 6, 8)
    config.method.random_weights = True
    config.train.epochs = 1
    config.train.batch_size = config.score.batch_size = 4
    if config.train.steps:
        config.method.source, config.method.target = "resnet18", "resnet18"
        config.train.steps = (4, 3, 2)
        config.train.positions = (64, 32, 16)
    return config


def fast(dataset: Path) -> Any:
    config = tiny(load_file(str(ROOT / "configs" / "mb_pfm_fast.py")), dataset)
    config.method.levels = (2,)
    return config


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    workdir = tmp_path_factory.mktemp("run") / "w"
    config = fast(dataset)
    config.train.holdout = 0.2
    return workdir, train(config, workdir)


def test_afrad_trains_one_model_for_all_and_comes_back(dataset: Path, tmp_path: Path) -> None:
    """From its configuration to a report, and the same figures when evaluated again."""
    config = load_file(str(ROOT / "configs" / "afrad.py") + ":mvtec")
    assert config.data.one_for_all
    config.data.root = str(dataset)
    config.data.image_size = (32, 48)
    m = config.method
    m.backbone, m.random_weights, m.levels = "resnet18", True, ("layer1",)
    m.width, m.patch_kernel, m.patch_stride = (4,), (2,), (2,)
    m.refinements, m.decodings, m.adaptive, m.grid = (1,), (1,), (1,), 1
    m.local = m.compensation = (1,)
    m.decoder_width, m.local_kernels = 8, (3,)
    config.train.epochs, config.train.batch_size, config.score.batch_size = 1, 4, 4
    results = train(config, tmp_path / "w")
    assert results["method"] == "afrad"
    assert results["categories"]["disc"]["n_train"] == 10
    assert [path.name for path in (tmp_path / "w" / "checkpoints").iterdir()] == ["all"]
    again = evaluate(tmp_path / "w")
    assert without_times(again) == without_times(results)


def test_simplenet_trains_and_comes_back(dataset: Path, tmp_path: Path) -> None:
    """The same figures when evaluated again."""
    config = load_file(str(ROOT / "configs" / "simplenet.py"))
    config.data.root, config.data.image_size = str(dataset), (32, 48)
    m = config.method
    m.backbone, m.random_weights, m.embedding, m.hidden = "resnet18", True, 16, 8
    m.levels = ("layer1",)
    config.train.positions = (48,)
    config.train.epochs, config.train.batch_size, config.score.batch_size = 1, 4, 4
    results = train(config, tmp_path / "w")
    assert results["method"] == "simplenet"
    assert 0 <= results["mean"]["aupro_0.30"] <= 1
    assert without_times(evaluate(tmp_path / "w")) == without_times(results)


def without_times(results: dict) -> dict:
    return {key: value for key, value in results.items() if key not in TIMES}


def test_workdir_holds_what_the_design_promises(run: tuple[Path, dict]) -> None:
    workdir, results = run
    assert json.loads((workdir / "results.json").read_text()) == results
    assert list(results) == [
        *("method", "dataset", "categories", "mean", "seconds", "images_per_second"),
        *("environment", "decisions"),
    ]
    assert list(results["categories"]["disc"]) == [
        *("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "aupro_0.30"),
        *("n_train", "n_calibration", "n_test"),
    ]
    counts = [results["categories"]["disc"][f"n_{s}"] for s in ("train", "calibration", "test")]
    assert counts == [5, 5, 7]  # of ten normal photos half are held back
    assert set(results["seconds"]) == {"features", "train", "score"}
    assert min(results["seconds"].values()) > 0
    lines = [json.loads(line) for line in (workdir / "train.jsonl").read_text().splitlines()]
    last = [line["step"] for line in lines if "step" in line]
    assert last == [1, 3]  # first and last step of the hierarchy
    assert sum("holdout" in line for line in lines) == 1
    page = (workdir / "report" / "index.html").read_text()
    assert f"{results['categories']['disc']['image_auroc']:.4f}" in page
    assert results["decisions"] == {}  # 5 photos calibrate no line for 5 %
    assert not [p for p in workdir.rglob("*") if p.name.endswith((".tmp", ".new", ".old"))]


def test_evaluate_again_gives_the_same_metrics(run: tuple[Path, dict]) -> None:
    workdir, results = run
    shutil.rmtree(workdir / "report")
    assert without_times(evaluate(workdir)) == without_times(results)
    assert (workdir / "report" / "index.html").is_file()


def test_loaded_detector_scores_as_the_evaluated_one(run: tuple[Path, dict], dataset: Path) -> None:
    workdir, results = run
    detector, variables, config = jaxad.load(workdir)
    paths = sorted(dataset.glob("disc/test/*/*.png"))
    labels = np.asarray([path.parent.name != "good" for path in paths])
    images = np.stack([decode_image(p, size=(32, 48)) for p in paths])
    scores = jax.jit(detector.score)(variables, images)
    assert scores.map.shape == (7, 32, 48)
    good, bad = scores.image[~labels], scores.image[labels]
    auroc = np.mean(np.asarray(bad)[:, None] > np.asarray(good)[None, :])
    assert auroc == pytest.approx(results["categories"]["disc"]["image_auroc"])
    assert config.method.latent == (4, 6, 8)
    with pytest.raises(InputError, match=r"has detectors \['disc'\]"):
        jaxad.load(workdir, "screw")


def test_other_weights_than_those_trained_with_are_refused(
    run: tuple[Path, dict], tmp_path: Path
) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(run[0], workdir)
    stored = json.loads((workdir / "config.json").read_text())
    stored["weights"]["source"] = "0" * 64
    (workdir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"source weights \(resnet18\) are not those"):
        jaxad.load(workdir)


def test_a_damaged_checkpoint_is_named(run: tuple[Path, dict], tmp_path: Path) -> None:
    workdir = tmp_path / "w"
    shutil.copytree(run[0], workdir)
    stored = json.loads((workdir / "config.json").read_text())
    stored["config"]["method"]["latent"] = [4, 7, 8]
    (workdir / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"checkpoint .*disc is of another model"):
        jaxad.load(workdir)
    shutil.rmtree(workdir / "checkpoints" / "disc")
    with pytest.raises(InputError, match="has no detector yet: none was trained, or not to the"):
        jaxad.load(workdir)
    with locked(workdir), pytest.raises(InputError, match=r"yet: a run is at it .jaxad status"):
        jaxad.load(workdir)


def test_training_says_at_its_start_what_the_detector_costs(
    run: tuple[Path, dict], dataset: Path
) -> None:
    first = json.loads((run[0] / "train.jsonl").read_text().splitlines()[0])["cost"]
    _, variables, _ = jaxad.load(run[0])
    sizes = {
        role: sum(leaf.size for leaf in jax.tree.leaves(tree["params"]))
        for role, tree in (("trained", variables["method"]), *variables["backbones"].items())
    }
    assert first["trained"] == sizes["trained"]
    assert first["frozen"] == sizes["source"] + sizes["target"]
    # Two ResNet-18 to layer2: 2 x 1.0 G multiply-adds at 224 x 224 pixels.
    assert first["gflop"] == pytest.approx(2 * 2 * 1.0 * 32 * 48 / 224**2, rel=0.3)
    assert describe(Cost(**first), fast(dataset)) == (
        f"pfm: {first['trained'] / 1e6:.2f} M parameters to train, {first['frozen'] / 1e6:.2f} M "
        f"frozen; {first['gflop']:.2f} GFLOP to score an image of 32 x 48"
    )


@pytest.mark.parametrize("case", range(1, 13))
def test_every_case_of_table_vii_is_a_program(case: int, dataset: Path) -> None:
    config = tiny(load_file(f"{ROOT / 'configs' / 'pfm_ablation.py'}:{case}"), dataset)
    backbones = build_backbones(config)
    (detector, phases), rng = models(config, backbones)(0), jax.random.key(0)
    # Without a budget for each level, all of them are one phase.
    features = {f"{role}/{level}" for role, n in backbones.networks.items() for level in n.levels}
    assert [(p.name, p.steps, p.positions) for p in phases] == [("all", 0, 0)]
    assert set(phases[0].features) == features
    images = jax.ShapeDtypeStruct((2, 32, 48, 3), np.uint8)
    # Traced, not compiled.
    variables = jax.eval_shape(lambda v: detector.init(rng, v, size=(32, 48)), backbones.variables)
    assert jax.eval_shape(detector.score, variables, images).map.shape == (2, 32, 48)
    loss, aux = jax.eval_shape(
        detector.loss, variables["method"], variables["backbones"], {"image": images}, rng
    )
    assert loss.shape == ()
    assert set(aux.updates) == {"batch_stats"}
    levels = detector.backbones["source"].levels
    assert sorted(variables["method"]["params"]) == sorted(levels)
    assert len(levels) == len(config.method.levels)


def python_of(page: str) -> str:
    """The Python of a page, which is our own text."""
    return "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))


def test_the_python_of_readme_and_tour_runs(
    run: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("efficientnet_lite0", "efficientnet_lite2"):
        write_random_weights(tmp_path, name)
    monkeypatch.setenv("JAXAD_WEIGHTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "runs/parts")
    export(Path("runs/parts"), Path("part.jaxad"), platforms=("cpu",), photos=False)
    images = np.zeros((2, 32, 48, 3), np.uint8)
    names: dict[str, Any] = {"images_u8": images}
    exec(python_of("README.md"), names)
    assert names["scores"].map.shape == (2, 32, 48)
    names = {"photos_u8": images}
    exec(python_of("docs/tour.md"), names)
    assert names["scores"].map.shape == (2, 32, 48)
    assert int(names["state"].step) == 30
    first, last = (float(total / count) for total, count in np.take(names["losses"], [0, -1], 0))
    assert last < 0.5 * first
    assert 0 <= names["figures"]["aupro_0.30"] <= 1
    assert names["labels"].shape == names["image_scores"].shape


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run the command line; it must answer with exit code 2 and one line."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    spoken = r"\d+/\d+ (images|steps) in |GFLOP to score|masks are used"
    lines = [line for line in lines if not re.search(spoken, line)]
    assert len(lines) == 1, lines
    return lines[0]


def flags(dataset: Path, workdir: Path, *changes: str) -> list[str]:
    return [
        "train",
        "--config",
        str(ROOT / "configs" / "mb_pfm_fast.py"),
        f"--workdir={workdir}",
        f"--config.data.root={dataset}",
        "--config.data.image_size=(32,48)",
        "--config.method.source=resnet18",
        "--config.method.target=resnet18",
        "--config.method.random_weights=true",
        "--config.method.latent=(4,6,8)",
        "--config.method.levels=(3,)",
        "--config.train.steps=(2,2,2)",
        "--config.train.positions=(16,16,16)",
        *changes,
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.train.epoch=3"], "unknown configuration key 'train.epoch'"),
        (["--config.data.root=nowhere"], "nowhere: no such folder"),
        (["--config.data.categories=screw"], "no category 'screw'"),
        (["--config.data.layout=cubes"], "data.layout is 'cubes': give"),
        (
            ["--config.train.steps=(2,0,2)"],
            "train.steps is (2, 0, 2): give any number of phases, each a whole number",
        ),
        (["--config.train.epochs=0"], "train.epochs is 0"),
        (["--config.train.holdout=1.0"], "train.holdout is 1.0: give a number, 0 or more, below 1"),
        (["--config.data.resize=cubic"], "data.resize is 'cubic'"),
        (["--config.data.image_size=(32,)"], "data.image_size is (32,)"),
        (["--config.train.steps=(2,2)"], "train.steps is (2, 2): give three values"),
        (["--config.method.levels=(4,)"], "method.levels is (4,)"),
        (["--config.method.source=resnet19"], "resnet19"),
        (["--config.method.name=afrad"], "does not go with method.name 'afrad'"),
        (["--config.train.parallel=threads"], "train.parallel is 'threads'"),
        (["--config.train.feature_cache=disk"], "give 'auto', 'device', 'host' or 'off'"),
        (["--config.train.cache_dtype=int8"], "train.cache_dtype is 'int8'"),
        (
            ["--config.train.sampling=fair"],
            "train.sampling is 'fair': give 'natural' or 'balanced'",
        ),
        (
            ["--config.method.random_weights=false", "--config.weights={0}"],
            "ports convert resnet18",
        ),
        (["--config.method.target_levels=layer2,layer3,layer4"], "same stride"),
    ],
)
def test_unusable_input_is_one_line(
    changes: list[str],
    message: str,
    dataset: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("JAXAD_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    changes = [change.format(tmp_path) for change in changes]
    if (
        "ports convert" in message
        and (ROOT / "ports" / "weights" / "resnet18.safetensors").exists()
    ):
        pytest.skip("this checkout has converted resnet18 weights, which are found in the end")
    line = refused(capsys, flags(dataset, tmp_path / "w", *changes))
    assert message in line
    assert not (tmp_path / "w" / "results.json").exists()


def test_weights_of_another_architecture_are_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = ARCHITECTURES["resnet18"]
    folded = weights.shapes(arch, levels=("layer1",), folded=True)
    weights.write(
        tmp_path / "resnet34.safetensors",
        jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), folded),
        metadata=weights.Metadata(
            "resnet18", ("layer1",), True, "x", "0", "", "MIT", arch.preprocess, Variant()
        ),
    )
    changes = ["--config.method.random_weights=false", f"--config.weights={tmp_path}"]
    line = refused(
        capsys, flags(dataset, tmp_path / "w", *changes, "--config.method.source=resnet34")
    )
    assert "resnet34.safetensors" in line
    assert "resnet18" in line
    assert not (tmp_path / "w").exists()

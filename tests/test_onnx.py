"""Detectors as ONNX graphs: another run time gives our scores, and files are whole and checked."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_transformer import transformer
from test_scorer import SETTINGS, SIZE, detector_of, photos, trained

from jaxad.backbones.weights import init_backbone
from jaxad.core import InputError, Scores
from jaxad.detector import Detector
from jaxad.methods.dinomaly import dinomaly
from jaxad.methods.patchcore import patchcore
from jaxad.ops.convolve import convolve
from jaxad.recipes.anomaly_dino import PART, PATCHES, patched
from jaxad.recipes.dinomaly import grouped
from jaxad.runtimes.convert import convert
from jaxad.runtimes.files import write_onnx, write_openvino

pytest.importorskip("onnx", reason="pip install 'jaxad[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'jaxad[onnx]'")


def run(score: Callable[[Any], Any], images: Any) -> tuple[list[Any], list[str]]:
    """What ONNX Runtime gives, and the kinds of nodes of the graph."""
    batch, *size, _ = images.shape
    model = convert(score, batch_size=batch, size=tuple(size))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images}), [node.op_type for node in model.graph.node]


def near(found: Any, wanted: Any) -> None:
    """Equal to a ten thousandth of the range."""
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * (float(np.ptp(wanted)) or 1.0), rtol=0)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_scores_alike(name: str) -> None:
    detector, frozen = detector_of(name)
    variables, images = trained(detector, frozen), photos(3)
    want = jax.jit(detector.score)(variables, images)
    found, _ = run(functools.partial(detector.score, jax.jit(detector.fold)(variables)), images)
    near(found[0], want.map)
    np.testing.assert_allclose(found[1], want.image, atol=1e-4 * float(np.ptp(want.map)))


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("resnet18", ["layer1", "layer2"]),
        ("resnet50_keras", ["layer2"]),
        ("vgg16", ["block2", "block3"]),
        ("efficientnet_b0", ["stage1", "stage3"]),
        ("efficientnet_lite0", ["stage1", "stage3"]),
    ],
)
def test_networks_are_convolutions_and_nothing_is_moved(name: str, levels: list[str]) -> None:
    backbone, variables = init_backbone(name, jax.random.key(0), levels=levels)
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 40, 3), np.uint8)

    def score(images: Any) -> Scores:
        features = backbone.features(variables, images)
        return Scores(features[levels[0]], features[levels[-1]])

    found, kinds = run(score, images)
    for ours, theirs in zip(found, jax.jit(score)(images)):
        near(ours, theirs)
    assert "MatMul" not in kinds
    assert kinds.count("Transpose") == 3  # what comes in, and the two that go out


@pytest.mark.parametrize("name", ["dinov2_vits14_reg", "deit_small_patch16"])
def test_vision_transformers_have_their_features(name: str) -> None:
    backbone, variables = init_backbone(name, jax.random.key(0), levels=["block1"])
    images = np.random.default_rng(0).integers(0, 256, (2, 112, 224, 3), np.uint8)

    def score(images: Any) -> Scores:
        features = backbone.features(variables, images)["block1"]
        return Scores(features, features[:, 0, 0])

    for ours, theirs in zip(run(score, images)[0], jax.jit(score)(images)):
        near(ours, theirs)


def test_what_reads_transformers_has_its_scores() -> None:
    """Dinomaly's decoder, and AnomalyDINO's bank behind its foreground."""
    images = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), np.uint8)
    plain, weights = transformer(("block1", "block2"), registers=1)
    one, known = transformer(("block2",))
    groups = ("backbone/group1", "backbone/group2")
    rebuild = dinomaly(groups, "backbone/others", blocks=2, heads=2, dropout=0.0)
    bank = patchcore(f"backbone/{PATCHES}", weight=f"backbone/{PART}", share=1.0, smoothing=0.0)
    for (backbone, frozen), method in (
        (grouped(plain, weights, groups=2), rebuild),
        (patched(one, known, foreground=0.1), bank),
    ):
        detector = Detector({"backbone": backbone}, method)
        variables = trained(detector, {"backbone": frozen})
        score = functools.partial(detector.score, variables)
        for ours, theirs in zip(run(score, images)[0], jax.jit(score)(images)):
            assert np.ptp(theirs) > 0
            near(ours, theirs)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "elements": lambda x: (
        jnp.exp(-jnp.abs(x)) + jnp.log(x + 2) * jnp.tanh(x) + jax.lax.rsqrt(x + 1)
    ),
    "powers": lambda x: x**2 + x**3 + jnp.sqrt(x) + jnp.power(x + 1, 0.5),
    "units": lambda x: jax.nn.elu(x - 0.5),
    "choices": lambda x: jnp.where((x > 0.3) & (x != 0.5), x, jnp.minimum(x, 0.1)),
    "choices of choices": lambda x: jnp.where(x[:, :1] > 0.501, x > 0.201, x < 0.701).astype(
        x.dtype
    ),
    "clipped": lambda x: jnp.clip(x, 0.2, 0.7) + jax.nn.relu(x - 0.5),
    "axes": lambda x: (
        x.transpose(0, 3, 1, 2).sum(axis=1)[..., None] * x.mean(axis=(1, 2), keepdims=True)
    ),
    "extremes": lambda x: x - x.max(axis=3, keepdims=True) + x.min(axis=(0, 1), keepdims=True),
    "parts": lambda x: jnp.concatenate([x[:, ::2, 1:5], x[:, ::-2, -4:] * 2], axis=3)[..., :4],
    "split": lambda x: sum(jnp.split(x, 3, axis=-1)),
    "stacked": lambda x: jnp.stack([x, 2 * x]).mean(axis=0),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=0.5),
    "rows": lambda x: x.reshape(2, -1) @ jnp.ones((8 * 6 * 3, 4)),
    "product": lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x + 1),
    "matrix on each axis": lambda x: jnp.einsum(
        "Hh,bhwc,Ww->bHWc", jnp.arange(16.0).reshape(2, 8), x, jnp.ones((3, 6))
    ),
    "best": lambda x: jax.lax.top_k(x.reshape(2, -1), 5)[0],
    "where best": lambda x: x[0][jax.lax.top_k(x.mean(axis=(0, 2, 3)), 1)[1][0]],
    "first best": lambda x: (2 * x.argmax(axis=1) + x.argmin(axis=-1)[:, 0, :, None]).astype(
        x.dtype
    ),
    "rows by number": lambda x: jnp.arange(40.0).reshape(8, 5)[jnp.argmax(x[..., 0], axis=1)],
    "channels by number": lambda x: x[..., jnp.asarray([2, 0])],
    "one channel by number": lambda x: jnp.take(x, jnp.asarray([1]), axis=-1),
    "columns by number": lambda x: x[:, :, jnp.argmax(x[0, :, :, 0], axis=1)],
    "numbers by number": lambda x: jnp.take_along_axis(x, jnp.argmax(x, axis=2)[:, :, None], 2),
    "a row of each": lambda x: jax.vmap(lambda y: y[jnp.argmax(y[:, 0, 0])] - y[1])(x),
    "the only row": lambda x: jax.vmap(lambda y: y[:1][jnp.argmax(y[:1, 0, 0])])(x),
    "a place of each": lambda x: jax.vmap(
        lambda y: jax.lax.dynamic_slice(y, (jnp.argmax(y[:, 0, 0]), 0, 2), (1, 6, 1))
    )(x),
    "places": lambda x: x[1, jnp.argmax(x[0, ..., 0], axis=0), jnp.arange(6) % 5, :],
    "places and rows": lambda x: x[:, jnp.argmax(x[0, ..., 0], axis=0), :, jnp.arange(6) % 3],
    "branches": lambda x: jax.lax.switch(
        jnp.argmax(x[0, :2, 0, 0]), [jnp.sin, jnp.square, lambda y: 0 * y][1:], x
    ),
    "loop": lambda x: jax.lax.map(lambda row: row * row.mean(), x),
    "carried": lambda x: jax.lax.scan(lambda c, row: (c + row, c * row), x[0], x, reverse=True)[1],
    "broadcast": lambda x: jnp.broadcast_to(x.mean(axis=(1, 2))[:, None, None], x.shape) + 0 * x,
    "depthwise": lambda x: convolve(x, jnp.ones((3, 3, 1, 3)), stride=2, padding="SAME", groups=3),
    "strided 1x1": lambda x: convolve(
        x, jnp.ones((1, 1, 3, 5)), stride=2, padding=((0, 0), (0, 0))
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_that_methods_consist_of(name: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 6, 3), np.uint8)

    def score(images: Any) -> Scores:
        y = FUNCTIONS[name](images.astype(jnp.float32) / 255)
        return Scores(y, y.sum(axis=-1))

    with jax.numpy_rank_promotion("allow"):
        found, _ = run(score, images)
        want = jax.jit(score)(images)
    for ours, theirs in zip(found, want):
        assert ours.shape == theirs.shape
        near(ours, theirs)


def test_an_unknown_primitive_is_named() -> None:
    with pytest.raises(InputError, match="can not have JAX's 'cumsum'"):
        convert(lambda x: Scores(jnp.cumsum(x.astype(jnp.float32)), x), batch_size=1, size=(4, 4))


def test_files_hold_our_scores(tmp_path: Path) -> None:
    detector, frozen = detector_of("simplenet")
    variables, images = trained(detector, frozen), photos(2)
    want = jax.jit(detector.score)(variables, images)
    write_onnx(detector, variables, tmp_path / "d.onnx", batch_size=2, size=SIZE, said={"a": "b"})
    session = ort.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    assert [(x.name, x.shape, x.type) for x in session.get_inputs()] == [
        ("images", [2, *SIZE, 3], "tensor(uint8)")
    ]
    assert [(x.name, x.shape) for x in session.get_outputs()] == [
        ("map", [2, *SIZE]),
        ("image", [2]),
    ]
    assert session.get_modelmeta().custom_metadata_map.keys() == {"jaxad", "a"}
    for ours, theirs in zip(session.run(None, {"images": images}), want):
        near(ours, theirs)
    ov = pytest.importorskip("openvino", reason="pip install 'jaxad[openvino]'")
    write_openvino(detector, variables, tmp_path / "d.xml", batch_size=2, size=SIZE)
    assert {p.name for p in tmp_path.iterdir()} == {"d.onnx", "d.xml", "d.bin"}
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else bfloat16, where the processor has it
    found = ov.Core().compile_model(tmp_path / "d.xml", "CPU", exact)(images)
    near(found["map"], want.map)
    with pytest.raises(InputError, match="a name that ends in"):
        write_openvino(detector, variables, tmp_path / "d.onnx", size=SIZE)


def test_a_file_tells_what_images_are_taken_for(tmp_path: Path) -> None:
    detector, frozen = detector_of("adapted_moe")
    variables, images = trained(detector, frozen, seed=8), photos(2)
    images[0] //= 4  # which this seed's router tells from the other
    write_onnx(detector, variables, tmp_path / "d.onnx", batch_size=2, size=SIZE)
    session = ort.InferenceSession(tmp_path / "d.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[2].name == "subclass"
    want = jax.jit(detector.routed)(variables, images)
    *scores, subclass = session.run(None, {"images": images})
    assert subclass.dtype == np.int32
    assert sorted(subclass) == [0, 1]
    np.testing.assert_array_equal(subclass, want.subclass)
    for ours, theirs in zip(scores, want):
        near(ours, theirs)


def test_a_graph_that_scores_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxad.runtimes import files

    detector, frozen = detector_of("simplenet")
    variables = trained(detector, frozen)
    other = functools.partial(detector.score, trained(detector, frozen, seed=2))
    monkeypatch.setattr(files, "convert", lambda _, **given: convert(other, **given))
    with pytest.raises(InputError, match="'map' is off by"):
        write_onnx(detector, variables, tmp_path / "d.onnx", size=SIZE)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    detector, frozen = detector_of("simplenet")
    with pytest.raises(InputError, match=r"pip install 'jaxad\[onnx\]'"):
        write_onnx(detector, {"backbones": frozen}, tmp_path / "d.onnx", size=SIZE)

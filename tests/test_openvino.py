"""Scorers by other run times: our scores, for any number of photos, without waiting."""

from __future__ import annotations

import functools
import gc
import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from small_detectors import WITHOUT_STEPS, without_steps
from test_scorer import SETTINGS, SIZE, detector_of, photos, trained

from jaxad.core import InputError
from jaxad.runtimes.convert import convert
from jaxad.runtimes.engines import quantised
from jaxad.runtimes.packages import needed
from jaxad.runtimes.signal_stack import signal_stack
from jaxad.scorer import make_scorer, stream

pytest.importorskip("onnx", reason="pip install 'jaxad[onnx]'")
ENGINES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module", params=[*SETTINGS, *WITHOUT_STEPS])
def case(request: pytest.FixtureRequest) -> Any:
    if request.param in WITHOUT_STEPS:
        detector, variables = without_steps(request.param)
    else:
        detector, frozen = detector_of(request.param)
        variables = trained(detector, frozen)
    images = photos(11)
    return detector, variables, images, jax.device_get(jax.jit(detector.score)(variables, images))


@pytest.mark.parametrize("runtime", ENGINES)
def test_scores_are_ours_of_any_number_of_images(runtime: str, case: Any) -> None:
    pytest.importorskip(runtime, reason=f"pip install {runtime}")
    detector, variables, images, want = case
    scorer = make_scorer(detector, variables, batch_size=4, size=SIZE, runtime=runtime)
    found = list(stream(scorer, (images[i : i + 4] for i in (0, 4, 8))))  # the last of 3
    assert [len(scores.image) for scores in found] == [4, 4, 3]
    assert all(type(x) is np.ndarray and x.dtype == np.float32 for s in found for x in s)
    span = float(np.ptp(want.map))
    for ours, theirs in zip(zip(*found), want):
        np.testing.assert_allclose(np.concatenate(ours), theirs, atol=1e-4 * span, rtol=0)
    with pytest.raises(InputError, match="this scorer takes 1 to 4 images"):
        scorer.score(images[:5])


@pytest.mark.parametrize("runtime", ENGINES)
def test_another_detector_and_scores_that_are_read_late(runtime: str) -> None:
    pytest.importorskip(runtime, reason=f"pip install {runtime}")
    detector, frozen = detector_of("simplenet")
    first, second = (trained(detector, frozen, seed) for seed in (1, 2))
    images, stack = photos(2), signal_stack()
    scorer = make_scorer(detector, first, batch_size=2, size=SIZE, runtime=runtime)
    renewed = scorer.renew(second)
    started = [scorer.score(images), renewed.score(jax.device_put(images))]
    for scores, variables in zip(started, (first, second)):
        want = jax.jit(detector.score)(variables, images)
        assert scores.map.shape == (2, *SIZE)
        assert len(scores.image) == 2
        jax.block_until_ready(scores)
        np.testing.assert_allclose(scores.map[0], want.map[0], atol=1e-4)
        assert float(scores.image.max()) == pytest.approx(float(want.image.max()), abs=1e-4)
    # Models go in their order: a signal that comes then must not find an unmapped stack.
    del started, scores, scorer
    gc.collect()
    del renewed
    gc.collect()
    assert [getattr(signal_stack(), n, None) for n in ("sp", "size")] == [
        getattr(stack, n, None) for n in ("sp", "size")
    ]


@pytest.mark.parametrize("runtime", ENGINES)
def test_what_images_are_taken_for(runtime: str) -> None:
    pytest.importorskip(runtime, reason=f"pip install {runtime}")
    detector, frozen = detector_of("adapted_moe")
    variables, images = trained(detector, frozen, seed=8), photos(5)
    images[::2] //= 4  # which this seed's router tells apart
    want = jax.device_get(jax.jit(detector.routed)(variables, images))
    given: dict[str, Any] = {"batch_size": 5, "size": SIZE, "runtime": runtime}
    found = jax.device_get(make_scorer(detector, variables, routed=True, **given).score(images))
    assert found.subclass.dtype == np.int32
    np.testing.assert_array_equal(found.subclass, want.subclass)
    assert set(want.subclass) == {0, 1}
    np.testing.assert_allclose(found.map, want.map, atol=1e-4 * float(np.ptp(want.map)), rtol=0)


def test_bfloat16_where_the_processor_has_it() -> None:
    ov = pytest.importorskip("openvino", reason="pip install 'jaxad[openvino]'")
    detector, frozen = detector_of("simplenet")
    variables, images = trained(detector, frozen), photos(4)
    given = {"batch_size": 4, "size": SIZE, "dtype": "bfloat16", "runtime": "openvino"}
    if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(InputError, match="no bfloat16 for OpenVINO: use float32"):
            make_scorer(detector, variables, **given)
        return
    want = jax.jit(detector.score)(variables, images)
    found = make_scorer(detector, variables, **given).score(images)
    assert np.corrcoef(np.ravel(found.map), np.ravel(want.map))[0, 1] > 0.97


@pytest.mark.parametrize("name", ["simplenet", "afrad"])
def test_int8_takes_its_ranges_from_photos(name: str) -> None:
    pytest.importorskip("openvino", reason="pip install 'jaxad[openvino]'")
    pytest.importorskip("nncf", reason="pip install 'jaxad[int8]'")
    detector, frozen = detector_of(name)
    variables, images = trained(detector, frozen), photos(8)
    given = {"batch_size": 8, "size": SIZE, "dtype": "int8", "runtime": "openvino"}
    with pytest.raises(InputError, match="int8 takes its ranges from photos"):
        make_scorer(detector, variables, **given)
    found = make_scorer(detector, variables, photos=images, **given).score(images)
    want = jax.jit(detector.score)(variables, images)
    assert np.corrcoef(np.ravel(found.map), np.ravel(want.map))[0, 1] > 0.9
    assert not np.array_equal(found.map, want.map)


def test_int8_is_for_convolutions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A normalisation's epsilon, added in int8, would be nothing: AFRAD has vectors of zeros."""
    ov = pytest.importorskip("openvino", reason="pip install 'jaxad[openvino]'")
    asked: dict[str, Any] = {}

    def quantize(model: Any, dataset: Any, **given: Any) -> Any:
        asked.update(given)
        return model

    namespace = SimpleNamespace(
        quantize=quantize,
        set_log_level=lambda level: None,
        Dataset=lambda *_: None,
        QuantizationPreset=SimpleNamespace(MIXED="mixed"),
        OverflowFix=SimpleNamespace(ENABLE="enable"),
        AdvancedQuantizationParameters=dict,
        IgnoredScope=dict,
    )
    monkeypatch.setitem(sys.modules, "nncf", namespace)
    detector, frozen = detector_of("afrad")
    score = functools.partial(detector.score, trained(detector, frozen))
    model = ov.Core().read_model(convert(score, batch_size=1, size=SIZE).SerializeToString())
    assert quantised(model, photos(2)) is model
    every = {operation.get_type_name() for operation in model.get_ordered_ops()}
    exact = set(asked["ignored_scope"]["types"])
    assert every - exact == {"Convolution", "GroupConvolution"}
    assert {"Add", "Sqrt", "Divide", "MatMul"} <= exact
    assert asked["advanced_parameters"] == {"overflow_fix": "enable"}


def test_what_can_not_be_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, frozen = detector_of("simplenet")
    variables = trained(detector, frozen)

    def make(runtime: str, dtype: str = "float32") -> None:
        make_scorer(detector, variables, batch_size=1, size=SIZE, runtime=runtime, dtype=dtype)

    with pytest.raises(InputError, match="there is no run time 'tensorrt': give one of xla, openv"):
        make("tensorrt")
    if "onnxruntime" in sys.modules:
        with pytest.raises(InputError, match="onnxruntime computes in float32, not in 'bfloat16'"):
            make("onnxruntime", "bfloat16")
    for name, extra in (("openvino", "openvino"), ("onnxruntime", "onnx")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"pip install 'jaxad\[{extra}\]'"):
            make(name)


def test_openvino_is_imported_without_its_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    seen = []
    real = __import__("importlib").import_module

    def spy(name: str) -> Any:
        seen.append(sys.modules.get("openvino_telemetry", "free"))
        return real("json")

    monkeypatch.setattr("importlib.import_module", spy)
    needed("openvino")
    assert seen == [None]
    assert "openvino_telemetry" not in sys.modules

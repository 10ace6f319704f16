"""anomalib's side of `benchmarks.anomalib_peer`; runs in anomalib's environment, without jaxad.

    python -m benchmarks.peers.anomalib_run train METHOD --data DIR --category NAME
        --weights NPZ --out DIR
    python -m benchmarks.peers.anomalib_run predict METHOD --out DIR PHOTOS
    python -m benchmarks.peers.anomalib_run serve METHOD --out DIR

All settings are anomalib's own but for ResNet-18, whose ImageNet weights come from a file. `train`
fits and tests, and leaves `trained.json` and a checkpoint in DIR; `predict` judges a folder, as a
user would; `serve` answers requests of `benchmarks.peers.lines`.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import anomalib  # type: ignore[import-not-found]
import numpy as np
import torch
from anomalib.data import MVTecAD, PredictDataset  # type: ignore[import-not-found]
from anomalib.engine import Engine  # type: ignore[import-not-found]
from anomalib.models import Padim, Patchcore  # type: ignore[import-not-found]
from lightning.pytorch import (  # type: ignore[import-not-found]
    Callback,
    seed_everything,
)
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.peers.lines import serve

MODELS = {"patchcore": Patchcore, "padim": Padim}
BATCH = 8
SIZE = (256, 256)
SEED = 42
"""anomalib's published figures are of this one."""
Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Maps uint8 photos to maps and image scores."""


class Clock(Callback):
    """Seconds from the first photo of a prediction to the last, without what sets it up."""

    def on_predict_start(self, *_: Any) -> None:
        """Begin."""
        self.begun = time.perf_counter()

    def on_predict_end(self, *_: Any) -> None:
        """End; pictures of every photo are written by now."""
        self.seconds = time.perf_counter() - self.begun


def train(method: str, data: Path, category: str, weights: Path, out: Path) -> None:
    """Fit and test, as `anomalib train` does; write `trained.json`."""
    seed_everything(SEED)
    start = time.monotonic()
    photos, model = MVTecAD(root=data, category=category), untrained(method, weights)
    engine = Engine(default_root_dir=out / "results")
    engine.fit(model, datamodule=photos)
    fitted = time.monotonic()
    (own,) = engine.test(model, datamodule=photos)
    tested = time.monotonic()
    facts = {
        "seconds": {
            "fit": fitted - start,
            "test": tested - fitted,
        },
        "own_metrics": {name: float(value) for name, value in own.items()},
        "n_train": len(photos.train_data),
        "checkpoint": engine.best_model_path,
        "bank": len(getattr(model.model, "memory_bank", ())),
        "versions": {"anomalib": anomalib.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
    }
    (out / "trained.json").write_text(json.dumps(facts))


def untrained(method: str, weights: Path) -> Any:
    """A model with the network of a file."""
    model = MODELS[method](backbone="resnet18", pre_trained=False)
    arrays = {name: torch.from_numpy(each) for name, each in np.load(weights).items()}
    network = model.model.feature_extractor.feature_extractor
    network.load_state_dict({name: arrays[name] for name in network.state_dict()})
    return model


def trained(method: str, out: Path) -> Any:
    """The model back from its checkpoint."""
    facts = json.loads((out / "trained.json").read_text())
    return MODELS[method].load_from_checkpoint(facts["checkpoint"]).eval()


def predict(model: Any, photos: Path, *, batch: int, pictures: bool = True) -> float:
    """Judge a folder of photos by `Engine.predict`; returns its seconds."""
    visualizer, clock = model.visualizer, Clock()
    model.visualizer = visualizer if pictures else None
    dataset = PredictDataset(photos)
    loader = DataLoader(dataset, batch_size=batch, collate_fn=dataset.collate_fn)
    with tempfile.TemporaryDirectory() as results:
        Engine(default_root_dir=results, callbacks=[clock]).predict(model, dataloaders=loader)
    model.visualizer = visualizer
    return clock.seconds


@functools.cache
def read(photos: tuple[str, ...]) -> np.ndarray:
    """Photos as `(N, H, W, 3)` uint8."""
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in photos])


def tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 pixels as anomalib's datasets give them: `(B, 3, H, W)`, 0 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)


class Answers:
    """What is asked of a trained model."""

    def __init__(self, method: str, out: Path) -> None:
        """Load it."""
        self._model, self._out = trained(method, out), out
        self._compiled: dict[int, Any] = {}

    def features(self, photos: list[str], to: str) -> None:
        """Write the network's feature maps, by level."""
        with torch.inference_mode():
            x = self._model.pre_processor(tensor(read(tuple(photos))))
            found = self._model.model.feature_extractor(x)
        np.savez(to, **{name: each.numpy() for name, each in found.items()})

    def score(self, photos: list[str], to: str, openvino: bool = False) -> None:
        """Write maps and image scores as the model gives them, before they are normalised.

        What OpenVINO gives is normalised already.
        """
        run = self._openvino(BATCH) if openvino else self._bare
        images = read(tuple(photos))
        found = [run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        maps, scores = (np.concatenate(each) for each in zip(*found))
        np.savez(to, maps=maps, scores=scores)

    def bare(self, photos: list[str], batch: int, openvino: bool = False) -> float:
        """Seconds to score photos that are in memory, so many at a time."""
        run = self._openvino(batch) if openvino else self._bare
        images = read(tuple(photos))
        start = time.perf_counter()
        for i in range(0, len(images), batch):
            run(images[i : i + batch])
        return time.perf_counter() - start

    def bank(self, members: str) -> int:
        """Give PatchCore another memory bank, `(N, C)` of a .npy; returns N."""
        self._model.model.memory_bank = torch.from_numpy(np.load(members))
        return len(self._model.model.memory_bank)

    def spent(self) -> float:
        """Seconds of cores that this process has taken."""
        return time.process_time()

    def job(self, folder: str, batch: int, pictures: bool) -> float:
        """Seconds to judge a folder."""
        return predict(self._model, Path(folder), batch=batch, pictures=pictures)

    def _bare(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            found = self._model.model(self._model.pre_processor(tensor(images)))
        return found.anomaly_map.squeeze(1).numpy(), found.pred_score.reshape(-1).numpy()

    def _openvino(self, batch: int) -> Score:
        """OpenVINO's program for so many photos.

        By default anomalib leaves the batch open, and PatchCore's file then takes two photos only.
        """
        if batch not in self._compiled:
            fixed = {"dynamic_shapes": ({0: batch},)}
            path = self._model.to_openvino(
                self._out / f"batch_{batch}", input_size=SIZE, onnx_kwargs=fixed
            )
            self._compiled[batch] = import_module("openvino").compile_model(str(path), "CPU")
        program = self._compiled[batch]

        def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            count = len(images)
            images = np.pad(images, [(0, batch - count), (0, 0), (0, 0), (0, 0)])
            found = program(tensor(images).numpy())
            return found["anomaly_map"][:count, 0], found["pred_score"].reshape(-1)[:count]

        return run


def main(argv: Sequence[str] | None = None) -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("train", "predict", "serve"):
        command = commands.add_parser(name)
        command.add_argument("method", choices=MODELS)
        command.add_argument("--out", type=Path, required=True)
        if name == "train":
            command.add_argument("--data", type=Path, required=True)
            command.add_argument("--category", required=True)
            command.add_argument("--weights", type=Path, required=True)
        if name == "predict":
            command.add_argument("photos", type=Path)
    args = parser.parse_args(argv)
    if args.command == "train":
        args.out.mkdir(parents=True, exist_ok=True)
        train(args.method, args.data, args.category, args.weights, args.out)
    elif args.command == "predict":
        predict(trained(args.method, args.out), args.photos, batch=BATCH)
    else:
        answers = Answers(args.method, args.out)
        names = ("features", "score", "bare", "job", "bank", "spent")
        serve({name: getattr(answers, name) for name in names})


if __name__ == "__main__":
    main()

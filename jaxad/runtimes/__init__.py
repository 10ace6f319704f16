"""Scoring by other run times than XLA: `Detector.score` as an ONNX graph, run by any of them."""

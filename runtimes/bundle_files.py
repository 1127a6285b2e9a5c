"""The name of every file that a bundle holds, and of what is kept beside bundles."""

from __future__ import annotations

from runtimes.choices import GraphKind

MANIFEST_FILE = "manifest.json"
WEIGHT_FILE = "model.onnx_data"
SHARED_FILE = "model.shared.onnx_data"  # tensors that no adapter changes, of several bundles
GRAPH_FILES = {
    GraphKind.PORTABLE: "model.onnx",
    GraphKind.ONNXRUNTIME: "model.onnxruntime.onnx",
    GraphKind.ONNXRUNTIME_CUDA: "model.onnxruntime_cuda.onnx",
    GraphKind.TENSORRT: "model.tensorrt.onnx",
    GraphKind.PRIMITIVE: "model.primitive.onnx",
}
# Clients of the official file open this path beside tokenizer.json and config.json.
OFFICIAL_FOLDER = "onnx"
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "config.json")
TOKENIZER_FILE = "tokenizer.json"
REFERENCE_FILE = "reference.npy"  # the reference's vectors of the gate's texts
CHUNKS_FILE = "reference_chunks.npy"
PARITY_FILE = "parity.json"
PLAN_FILE = "plan.json"  # what the engines execute
CALIBRATION_FILE, REPORT_FILE = "calibration.json", "report.html"
DEVICE_FILES = ("build_engine.py", "README.md")
CALIBRATION_FOLDER = "calibration"  # beside the bundles of a model


def engine_file(gpu: str) -> str:
    """The engine for a GPU architecture such as ``sm89``."""
    return f"encoder.{gpu}.engine"

"""The name of every file that a bundle holds, and of what is kept beside bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtimes.choices import GraphKind, Layout

MANIFEST_FILE = "manifest.json"
WEIGHT_FILE = "model.onnx_data"
# Tensors that no adapter changes, of several bundles. Clients in a browser count such files: they
# fetch model.onnx_data, model.onnx_data_1 and so on.
SHARED_FILE = "model.onnx_data_1"
GRAPH_FILES = {
    GraphKind.PORTABLE: "model.onnx",
    GraphKind.ONNXRUNTIME: "model.onnxruntime.onnx",
    GraphKind.ONNXRUNTIME_CUDA: "model.onnxruntime_cuda.onnx",
    GraphKind.TENSORRT: "model.tensorrt.onnx",
    GraphKind.PRIMITIVE: "model.primitive.onnx",
}
# Where sentence-transformers and Optimum look, in every layout. The weights beside it are those of
# the other graphs: one file by two names.
OPENVINO_FILE, OPENVINO_WEIGHTS = "openvino/openvino_model.xml", "openvino/openvino_model.bin"


@dataclass(frozen=True, kw_only=True)
class GraphPlaces:
    """The folder inside the bundle that holds graphs and weights, and the graphs' names in it."""

    folder: str
    names: Mapping[GraphKind, str]

    def path(self, kind: GraphKind) -> str:
        """A graph's path inside the bundle."""
        if kind is GraphKind.OPENVINO:
            return OPENVINO_FILE
        return f"{self.folder}/{self.names[kind]}" if self.folder else self.names[kind]


# Hub clients, as those of the official file, open onnx/model.onnx beside tokenizer.json and
# config.json: there it is the graph that runs on a CPU.
PLACES = {
    Layout.FLAT: GraphPlaces(folder="", names=GRAPH_FILES),
    Layout.HUB: GraphPlaces(
        folder="onnx",
        names=GRAPH_FILES
        | {GraphKind.ONNXRUNTIME: "model.onnx", GraphKind.PORTABLE: "model.portable.onnx"},
    ),
}
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE, TOKENS_FILE = "tokenizer_config.json", "special_tokens_map.json"
CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"  # this and what follows: for sentence-transformers
POOLING_FILE = "1_Pooling/config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
CLIENT_FILES = (
    TOKENIZER_CONFIG_FILE,
    TOKENS_FILE,
    CONFIG_FILE,
    MODULES_FILE,
    POOLING_FILE,
    PROMPTS_FILE,
)
REFERENCE_FILE = "reference.npy"  # the reference's vectors of the gate's texts
CHUNKS_FILE = "reference_chunks.npy"
PARITY_FILE = "parity.json"
VOCABULARY_FILE = "vocabulary.npy"  # a bit for each token id: whether it has a row
PLAN_FILE = "plan.json"  # what the engines execute
FINGERPRINT_FILE = "fingerprint.json"  # what determines its vectors, and canaries
CALIBRATION_FILE, REPORT_FILE = "calibration.json", "report.html"
DEVICE_FILES = ("build_engine.py", "encode.py", "requirements.txt", "README.md")
DEVICE_WHEEL = "adaptrt_runtime-*.whl"  # the light runtime beside them, with its version
CALIBRATION_FOLDER = "calibration"  # beside the bundles of a model
REFUSAL_SUFFIX = "-refused.html"  # there, after the name of a bundle that was not published


def engine_file(gpu: str) -> str:
    """The engine for a GPU architecture such as ``sm89``."""
    return f"encoder.{gpu}.engine"

"""One method of one library that quantises, on one case: ``make recipe-rivals`` runs it.

``python -m tests.bench.recipe_worker CASE METHOD`` in the library's own environment: the FP32 graph
is quantised with the calibration texts and run on the others, in ONNX Runtime or OpenVINO of that
environment. The last line that is printed is a JSON object. Nothing of this project's dependencies
but NumPy is imported before it is needed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRAPH_FILE, ROWS_FILE, EXACT_FILE = "model.onnx", "rows.npz", "exact.npy"
FEW_TEXTS = 32  # of the calibration texts, every eighth: GPTQ and AWQ take long over more
Row = dict[str, NDArray[np.int64]]
Quantise = Callable[[Path, Sequence[Row], Path], None]  # the graph, calibration texts, the result


@dataclass(frozen=True)
class Method:
    """A row of the table: its folder in ``.venv-rivals``, what quantises, the result's kind."""

    environment: str
    quantise: Quantise
    suffix: str = ".onnx"


class Reader:
    """Calibration texts one by one, as ONNX Runtime and those who follow it read them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.rewind()

    def rewind(self) -> None:
        self.left: Iterator[Row] = iter(self.rows)

    def get_next(self) -> Row | None:
        return next(self.left, None)

    def get_first(self) -> Row:
        return self.rows[0]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def _one_length(rows: Sequence[Row], length: int = 128) -> list[Row]:
    """The texts cut and padded (id 1, masked) to one length."""
    filled = {"input_ids": 1, "attention_mask": 0}
    cut = [{name: row[name][:, :length] for name in filled} for row in rows]
    return [
        {
            name: np.pad(ids, ((0, 0), (0, length - ids.shape[1])), constant_values=filled[name])
            for name, ids in row.items()
        }
        for row in cut
    ]


def _few(rows: Sequence[Row]) -> Sequence[Row]:
    return rows[:: len(rows) // FEW_TEXTS]


def _ort_static(**options: Any) -> Quantise:
    def quantise(graph: Path, rows: Sequence[Row], out: Path) -> None:
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(graph), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                prepared,
                out,
                Reader(rows),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                **options,
            )

    return quantise


def _ort_dynamic(graph: Path, rows: Sequence[Row], out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(graph, out, per_channel=True)


def _nncf(graph: Path, rows: Sequence[Row], out: Path) -> None:
    """Of a transformer NNCF's defaults are the preset "mixed" and SmoothQuant at alpha 0.95."""
    import nncf
    import openvino as ov

    quantised = nncf.quantize(
        ov.Core().read_model(graph),
        nncf.Dataset(rows),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(rows),
    )
    ov.save_model(quantised, out, compress_to_fp16=False)


def _neural_compressor_static(**options: Any) -> Quantise:
    def quantise(graph: Path, rows: Sequence[Row], out: Path) -> None:
        from onnx_neural_compressor.quantization import QuantFormat, QuantType, config, quantize

        chosen = config.StaticQuantConfig(
            calibration_data_reader=Reader(_one_length(rows)),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibration_sampling_size=len(rows),
            **options,
        )
        quantize(str(graph), str(out), chosen)

    return quantise


def _neural_compressor_weights(algorithm: str) -> Quantise:
    def quantise(graph: Path, rows: Sequence[Row], out: Path) -> None:
        import onnx
        from onnx_neural_compressor.quantization import algorithm_entry, config

        if algorithm == "RTN":
            found = algorithm_entry.rtn_quantize_entry(str(graph), config.RTNConfig())
        else:
            reader = Reader(_few(rows))
            found = algorithm_entry.gptq_quantize_entry(str(graph), config.GPTQConfig(), reader)
        onnx.save(found, out)

    return quantise


def _modelopt(mode: str, method: str, *, few: bool = False) -> Quantise:
    def quantise(graph: Path, rows: Sequence[Row], out: Path) -> None:
        from modelopt.onnx.quantization import quantize

        quantize(
            str(graph),
            quantize_mode=mode,
            calibration_method=method,
            calibration_data_reader=Reader(_one_length(_few(rows)) if few else rows),
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=str(out),
        )

    return quantise


METHODS: Mapping[str, Method] = {
    "ONNX Runtime quantize_static": Method("onnxruntime", _ort_static()),
    "ONNX Runtime quantize_static, MatMul alone": Method(
        "onnxruntime", _ort_static(op_types_to_quantize=["MatMul"])
    ),
    "ONNX Runtime quantize_dynamic": Method("onnxruntime", _ort_dynamic),
    "NNCF quantize": Method("nncf", _nncf, ".xml"),
    "neural-compressor SmoothQuant": Method(
        "neural-compressor", _neural_compressor_static(extra_options={"SmoothQuant": True})
    ),
    "neural-compressor INT4 RTN": Method("neural-compressor", _neural_compressor_weights("RTN")),
    "neural-compressor INT4 GPTQ": Method("neural-compressor", _neural_compressor_weights("GPTQ")),
    "ModelOpt INT8 max": Method("modelopt", _modelopt("int8", "max")),
    "ModelOpt INT8 entropy": Method("modelopt", _modelopt("int8", "entropy")),
    "ModelOpt INT4 AWQ": Method("modelopt", _modelopt("int4", "awq_lite", few=True)),
}


def read_rows(case: Path, kind: str) -> list[Row]:
    """Unpadded texts as the graph takes them."""
    with np.load(case / ROWS_FILE) as stored:
        cut = np.cumsum(stored[f"{kind}_lengths"])[:-1]
        texts = [ids[None] for ids in np.split(stored[kind], cut)]
    return [{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in texts]


def cosines(run: Callable[[Row], Any], case: Path) -> NDArray[np.float64]:
    """Of each text's mean vector with PyTorch's."""
    exact = np.load(case / EXACT_FILE).astype(np.float64)
    means = [
        np.asarray(run(row))[0].astype(np.float64).mean(0) for row in read_rows(case, "judged")
    ]
    vectors = np.stack(means)
    found: NDArray[np.float64] = (vectors * exact).sum(1) / (
        np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
    )
    return found


def opened(path: Path) -> Callable[[Row], Any]:
    """A graph on this CPU; what is not quantised is computed in FP32."""
    if path.suffix == ".xml":
        import openvino as ov

        hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        request = ov.Core().compile_model(path, "CPU", hints).create_infer_request()
        return lambda row: request.infer(row)[0]
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda row: session.run(None, row)[0]


def measure(case: Path, method: Method) -> Mapping[str, Any]:
    """The figures of one method."""
    from tests.bench.recipe_products import products

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"quantised{method.suffix}"
        started = perf_counter()
        method.quantise(case / GRAPH_FILE, read_rows(case, "calibrated"), out)
        seconds = perf_counter() - started
        found = cosines(opened(out), case)
        return {
            "least": float(found.min()),
            "mean": float(found.mean()),
            "products": products(out),
            "seconds": round(seconds, 1),
        }


def main() -> None:
    figures = measure(Path(sys.argv[1]), METHODS[sys.argv[2]])
    print(f"\n{json.dumps(figures)}")  # on a line of its own, behind a library's bar of progress


if __name__ == "__main__":
    main()

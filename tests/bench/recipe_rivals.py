"""What other libraries make of the two checkpoints: ``make recipe-rivals``.

Each quantises the same FP32 graph with the texts that the recipes' ranges come from, and is judged
on the texts that recipes are judged on, run in ONNX Runtime or OpenVINO. What fails is named with
the library's own words.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

from tests.bench.plan_tables import markdown
from tests.bench.recipe_worker import METHODS
from tests.bench.reports import FOLDER, ROOT
from tests.bench.summary import machine

FILE = FOLDER / "recipes" / "rivals.json"  # the committed report
ENVIRONMENTS = ROOT / ".venv-rivals"
LIBRARIES = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "nncf": ("nncf", "openvino"),
    "neural-compressor": ("onnx-neural-compressor", "onnxruntime", "onnx"),
    "modelopt": ("nvidia-modelopt", "onnxruntime-gpu", "onnx"),
}
Figures = Mapping[str, Any]


def run(case: Path, method: str) -> Figures:
    """The figures of one method, or ``error``: the last line that its library said."""
    python = ENVIRONMENTS / METHODS[method].environment / "bin" / "python"
    process = subprocess.run(
        [str(python), "-m", "tests.bench.recipe_worker", str(case), method],
        capture_output=True,
        text=True,
        cwd=case,  # ModelOpt compiles an extension with setuptools, which reads what lies here
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or ["no reason given"]
        return {"error": f"exit code {process.returncode}: {last[0][:300]}"}
    found: Figures = json.loads(process.stdout.strip().splitlines()[-1])
    return found


def versions(locks: Path = ROOT / "locks" / "rivals") -> dict[str, dict[str, str]]:
    """Of what counts in each environment, from its lock file."""
    return {
        environment: {name: _locked(locks / f"{environment}.txt")[name] for name in names}
        for environment, names in LIBRARIES.items()
    }


def _locked(path: Path) -> dict[str, str]:
    """What the file installs on this machine."""
    from packaging.requirements import Requirement

    lines = path.read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [r for r in found if r.marker is None or r.marker.evaluate()]
    return {r.name: str(r.specifier).removeprefix("==") for r in here}


def table() -> str:
    """The committed report, a row for each method."""
    return table_of(json.loads(FILE.read_text(encoding="utf-8")))


def table_of(report: Mapping[str, Any]) -> str:
    cases = list(dict.fromkeys((row["model"], row["task"]) for row in report["rows"]))
    by_method: dict[str, dict[tuple[str, str], Figures]] = {}
    for row in report["rows"]:
        by_method.setdefault(row["method"], {})[row["model"], row["task"]] = row
    head = ("library", *(f"{model}, {task}" for model, task in cases), "products in INT8")
    rows = [
        (name, *(_cell(found.get(case)) for case in cases), _shares(list(found.values())))
        for name, found in by_method.items()
    ]
    named = "; ".join(
        ", ".join(f"{name} {version}" for name, version in found.items())
        for found in report["versions"].values()
    )
    caption = f"*least / mean cosine over {report['texts']} texts, run; {report['machine']}, "
    failed = dict.fromkeys(
        f"{row['method']} failed: {row['error']}" for row in report["rows"] if "error" in row
    )
    return "\n\n".join(
        [f"{caption}{report['date']}; {named}*", markdown(head, rows), *(f"{f}." for f in failed)]
    )


def _cell(row: Figures | None) -> str:
    if row is None:
        return ""  # not run
    return "failed" if "error" in row else f"{row['least']:.6f} / {row['mean']:.6f}"


def _shares(rows: Sequence[Figures]) -> str:
    """One share where the models have the same, else each that there is."""
    told = dict.fromkeys(_share(row["products"]) for row in rows if "products" in row)
    return " and ".join(told)


def _share(products: Mapping[str, int]) -> str:
    stored = f", {products['stored']} with the weight alone" if products["stored"] else ""
    return f"{products['int8']} of {products['all']}{stored}"


def main() -> None:
    from tests.bench.recipe_graphs import write_case
    from tests.bench.recipes import CASES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=2, help="how many run beside each other")
    parser.add_argument("--only", default="", help="what is in the names of those that are run")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / str(number) for number in range(len(CASES))]
        for (_, model, task), case in zip(CASES, folders, strict=True):
            texts = write_case(model, task, case)

        def measured(number: int, method: str) -> dict[str, Any]:
            name, _, task = CASES[number]
            figures = run(folders[number], method)
            print(f"{name} {task}: {method}: {figures}", flush=True)
            return {"model": name, "task": task, "method": method, **figures}

        with ThreadPoolExecutor(arguments.at_once) as pool:
            wanted = [name for name in METHODS if arguments.only in name]
            jobs = [pool.submit(measured, n, m) for n in range(len(CASES)) for m in wanted]
            rows = [job.result() for job in jobs]
    report = {"machine": machine(), "date": date.today().isoformat(), "texts": texts}
    report |= {"command": "make recipe-rivals", "versions": versions(), "rows": rows}
    (arguments.out / "rivals.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

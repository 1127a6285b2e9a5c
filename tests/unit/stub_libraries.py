"""Libraries in the place of TensorRT's, so that its bindings load and make nothing."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

STUBS = """
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
int getNvOnnxParserVersion(void) { return 110400; }
int cuInit(unsigned flags) { return 100; /* no device */ }
int cuGetErrorName(int error, const char **name) {
  *name = error == 2 ? "cudaErrorMemoryAllocation" : "cudaErrorNoDevice";
  return 0;
}
int cuGetErrorString(int error, const char **words) {
  *words = error == 2 ? "out of memory" : "no device";
  return 0;
}
int initLibNvInferPlugins(void *logger, const char *space) { return 1; }
"""


def compile_stubs(folder: Path, files: Sequence[str]) -> None:
    """One library of each name. A C compiler must be there."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler is not None, "no C compiler (cc, gcc, clang) for the stub libraries"
    (folder / "stubs.c").write_text(STUBS)
    for file in files:
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", file, "stubs.c"]
        subprocess.run(command, cwd=folder, check=True)


def load_stubs(folder: Path, files: Sequence[str]) -> None:
    """Compile and load them for good: bindings that ask for them find them in the process."""
    compile_stubs(folder, files)
    for file in files:
        ctypes.CDLL(str(folder / file), mode=ctypes.RTLD_GLOBAL)

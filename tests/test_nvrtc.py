"""Every kernel file through NVRTC for four generations of GPU, with no GPU and no driver: no
warnings, no register spills."""

import re
import warnings

import pytest

from minigrad import kernels

try:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # CuPy warns where it finds no CUDA toolkit; NVRTC alone is enough here
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
except Exception as error:  # no CuPy, or no NVRTC that it can load
    pytest.skip(f"the kernels are not compiled for GPUs here: {error}", allow_module_level=True)

CUPYS_OPTIONS = (
    "--device-as-default-execution-space",
    "-ftz=true",
)  # what it adds at each compilation (cupy/cuda/compiler.py)
FILES = sorted({file for file, _ in kernels.signatures().values() if file.endswith(".cu")})


@pytest.mark.parametrize("arch", [75, 80, 90, 120])
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize("file", FILES)
def test_compiles(file, real, arch):
    program = nvrtc.createProgram(kernels.gpu_source(file), file, (), ())
    options = (*kernels.gpu_options(real), f"-arch=sm_{arch}", "--ptxas-options=-v", *CUPYS_OPTIONS)
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    log = nvrtc.getProgramLog(program)
    assert "warning" not in log.lower()
    assert all(bytes_ == "0" for bytes_ in re.findall(r"(\d+) bytes spill", log)), log
    assert len(nvrtc.getCUBIN(program)) > 1000

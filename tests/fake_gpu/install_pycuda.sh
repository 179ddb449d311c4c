#!/usr/bin/env bash
# Compile pycuda for the pretended GPU: tests/fake_gpu/install_pycuda.sh PYTHON
#
# It has no wheels, wants CUDA's headers, a libcuda to link with (the pretended one does) and, unless told otherwise,
# cuRAND. On a Jetson none of this is needed: `pip install pycuda` finds all three.
set -euo pipefail
python=$(realpath --no-symlinks "$1")
cd "$(dirname "$0")/../.."

if [ ! -e /usr/local/cuda/include/cuda.h ] || ! command -v g++ >/dev/null; then
    echo "pycuda is left out, and with it the tests on the pretended GPU: no CUDA headers or no g++ here"
    exit 0
fi
work=$PWD/build/pycuda
rm -rf "$work" && mkdir -p "$work"
"$python" -c "from pathlib import Path; from tests.fake_gpu import build; build(Path('$work'))"
ln -s libcuda.so.1 "$work/libcuda.so"
"$python" -m pip download --quiet --no-deps --no-binary pycuda --dest "$work" pycuda==2026.1
tar -xzf "$work"/pycuda-*.tar.gz -C "$work" --strip-components 1
cat >"$work/siteconf.py" <<CONF
CUDA_ROOT = "/usr/local/cuda"
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$work"]
CUDADRV_LIBNAME = ["cuda"]
CONF
if ! PATH=/usr/local/cuda/bin:$PATH "$python" -m pip install "$work" >"$work/install.log" 2>&1; then
    tail -20 "$work/install.log"
    exit 1
fi

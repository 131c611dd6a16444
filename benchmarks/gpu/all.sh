#!/usr/bin/env bash
# Every check and measurement that needs a GPU, within eight minutes: see README.md beside this.
#
#   benchmarks/gpu/all.sh [--python PYTHON] [--wheels DIR] [OPTIONS OF python benchmarks/gpu]
#
# Fetches and builds nothing. PYTHON (python3) must have torch for CUDA, triton, numpy, safetensors, tokenizers,
# jinja2, regex, rich and typer, for the tests pytest, pytest-timeout and hypothesis. If Ramet is not installed
# it runs from src/: the CPU it is compared with then computes with torch. What is often missing are msgspec,
# pyzmq, gguf and platformdirs: bring them along as wheels for that Python and platform in DIR, which nothing
# else is installed from. Such as:
#
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
#       --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d DIR msgspec pyzmq gguf platformdirs
#
# Real weights are taken from build/models/*.gguf, or from --model PATH.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=python3 wheels=
rest=()
while [ $# -gt 0 ]; do
    case $1 in
        --python) python=$2; shift 2 ;;
        --wheels) wheels=$2; shift 2 ;;
        *) rest+=("$1"); shift ;;
    esac
done

if [ -n "$wheels" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
if ! "$python" -c 'import ramet' 2>/dev/null; then
    "$python" -c 'import gguf, msgspec, platformdirs, zmq' # says what to bring along
    export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
fi
for model in "$root"/build/models/*.gguf; do
    [ -e "$model" ] && rest=(--model "$model" ${rest[@]+"${rest[@]}"})
    break
done
export PYTHONUNBUFFERED=1 # what a run that is cut off said is not lost
"$python" "$root/benchmarks/gpu" ${rest[@]+"${rest[@]}"}

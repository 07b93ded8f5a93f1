#!/usr/bin/env bash
# Measures on one GPU what nothing else can: see benchmarks/on_gpu.py. Needs no network.
#
#     OUT=results/gpu bash benchmarks/on_gpu.sh           # at most 8 minutes
#     bash benchmarks/on_gpu.sh --dry                     # all of it small, on the CPU
#
#     OUT     folder for the JSON files (default: results/gpu)
#     WHEELS  folder of wheels that the machine's Python lacks; installed aside, for this run
#     DATA    a data set's name or an .npz for the flows, in place of their table's
#     BUDGET  seconds for everything (default: 480)
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=Agg
export MPLCONFIGDIR="$work/matplotlib" TORCHINDUCTOR_CACHE_DIR="$work/inductor"
export TRITON_CACHE_DIR="$work/triton" PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1
if [ -z "${PYRO_VAE_ZOO_DATA:-}" ] && [ -d ../shared/data ]; then
    PYRO_VAE_ZOO_DATA=$(cd ../shared/data && pwd)
    export PYRO_VAE_ZOO_DATA
fi
if [ -n "${WHEELS:-}" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
        --target "$work/site" "$WHEELS"/*.whl
    export PYTHONPATH="$PYTHONPATH:$work/site"
fi
# The program keeps the budget; `timeout` is there should it hang itself.
left=$((${BUDGET:-480} - SECONDS - 13))
timeout --kill-after=12 "$left" python3 benchmarks/on_gpu.py \
    --seconds "$((left - 10))" --work "$work" --out "${OUT:-results/gpu}" \
    ${DATA:+--data "$DATA"} "$@" &
program=$!
trap 'kill -TERM "$program"' TERM INT # so that it writes its summary
code=0
wait "$program" || code=$?
wait "$program" 2>/dev/null || true # for the end of one that was just told to
exit "$code"

#!/usr/bin/env bash
# What the CUDA backend does on a real GPU: the conformance kit, then times of products and of a decoder's steps.
#
#   scripts/gpu-check.sh pack DIR    on a machine that has built everything (npx pnpm build, with nvcc): a folder to carry to one with a GPU
#   DIR/gpu-check.sh [OUT]           there, on x86-64 Linux with an NVIDIA driver and nothing else: writes OUT/gpu-check.json and OUT/gpu-check.md (default: .)
#
# Variables: LOWBIT_CUDA_DRIVER names another driver library, LOWBIT_GPU_SHAPES=small tiny shapes (both are for trying this script without a GPU).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

if [ "${1:-}" = pack ]; then
  out="${2:?name a new folder: scripts/gpu-check.sh pack DIR}"
  root="$(dirname "$here")"
  addon="$root/packages/kernels-cuda/build/Release/lowbit_cuda.node"
  [ -f "$addon" ] || { echo "gpu-check: the addon is not built: node packages/kernels-cuda/build-native.mjs" >&2; exit 1; }
  [ ! -e "$out" ] || { echo "gpu-check: $out exists; name a new folder" >&2; exit 1; }
  mkdir -p "$out/node_modules/@lowbit"
  for name in core addon testing kernels-cuda; do
    from="$root/packages/$name"
    [ -f "$from/dist/index.js" ] || { echo "gpu-check: packages/$name is not built: npx pnpm build" >&2; exit 1; }
    mkdir -p "$out/node_modules/@lowbit/$name"
    cp -R "$from/package.json" "$from/dist" "$out/node_modules/@lowbit/$name/"
  done
  mkdir -p "$out/node_modules/@lowbit/kernels-cuda/build/Release"
  cp "$addon" "$out/node_modules/@lowbit/kernels-cuda/build/Release/"
  cp "$here/gpu-check.sh" "$here/gpu-check.mjs" "$out/"
  cp "$(node -p process.execPath)" "$out/node"
  echo "gpu-check: $(du -sh "$out" | cut -f1) in $out"
  exit 0
fi

node="$here/node"
[ -x "$node" ] || node=node
exec "$node" "$here/gpu-check.mjs" "${1:-.}"

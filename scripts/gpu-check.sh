#!/usr/bin/env bash
# What the CUDA backend does on a real GPU: the conformance kit, then times of products, of a decoder's steps and of quantizing.
#
#   scripts/gpu-check.sh pack DIR    on a machine that has built everything (npx pnpm build, with nvcc): a folder to carry to one with a GPU, under 64 MB
#   DIR/gpu-check.sh [OUT]           there, on x86-64 Linux with an NVIDIA driver and nothing else: writes OUT/gpu-check.json and OUT/gpu-check.md (default: .)
#
# Where compute-sanitizer is installed, the conformance kit runs once more, in both precisions, under each of its tools: OUT/sanitizer-TOOL.txt, and a line of each in gpu-check.md.
#
# Where there is a Python with torch, products of 128 to 2,048 rows stand beside its own in bf16 (cuBLAS), and beside the rate of its largest.
#
# Variables: LOWBIT_PYTHON names a Python (off: none), LOWBIT_CUDA_DRIVER names another driver library, LOWBIT_SANITIZER another compute-sanitizer (off: none), LOWBIT_GPU_SHAPES=small tiny shapes (both are for trying this script without a GPU).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
most_kilobytes=64000

if [ "${1:-}" = pack ]; then
  out="${2:?name a new folder: scripts/gpu-check.sh pack DIR}"
  root="$(dirname "$here")"
  addon="$root/packages/kernels-cuda/build/Release/lowbit_cuda.node"
  [ -f "$addon" ] || { echo "gpu-check: the addon is not built: node packages/kernels-cuda/build-native.mjs" >&2; exit 1; }
  [ ! -e "$out" ] || { echo "gpu-check: $out exists; name a new folder" >&2; exit 1; }
  mkdir -p "$out/node_modules/@lowbit"
  for name in core addon testing models hqq bnb higgs kernels-cuda; do
    from="$root/packages/$name"
    [ -f "$from/dist/index.js" ] || { echo "gpu-check: packages/$name is not built: npx pnpm build" >&2; exit 1; }
    mkdir -p "$out/node_modules/@lowbit/$name"
    cp -R "$from/package.json" "$from/dist" "$out/node_modules/@lowbit/$name/"
  done
  # What builds programs comes with models, which needs these.
  mkdir -p "$out/node_modules/@huggingface"
  cp -RL "$root/packages/models/node_modules/@huggingface/jinja" "$root/packages/models/node_modules/@huggingface/tokenizers" "$out/node_modules/@huggingface/"
  mkdir -p "$out/node_modules/@lowbit/kernels-cuda/build/Release"
  cp "$addon" "$out/node_modules/@lowbit/kernels-cuda/build/Release/"
  cp "$here/gpu-check.sh" "$here/gpu-check.mjs" "$here/gpu-common.mjs" "$here/gpu-checks.mjs" "$here/gpu-prompts.mjs" "$here/gpu-quantize.mjs" "$here/gpu-peak.py" "$out/"
  # Node is most of it: without its symbols, where there is something to take them out, and by gzip, which every system has that has a shell.
  cp "$(node -p process.execPath)" "$out/node"
  if command -v strip > /dev/null; then strip "$out/node"; fi
  gzip -n "$out/node"
  kilobytes="$(du -sk "$out" | cut -f1)"
  [ "$kilobytes" -lt "$most_kilobytes" ] || { echo "gpu-check: $kilobytes kB in $out, the limit is $most_kilobytes" >&2; exit 1; }
  echo "gpu-check: $kilobytes kB in $out"
  exit 0
fi

node="$here/node"
if [ ! -x "$node" ] && [ -f "$node.gz" ]; then
  gzip -dc "$node.gz" > "$node.part" || { echo "gpu-check: node does not unpack into $here: it needs 90 MB and to be written to" >&2; exit 1; }
  chmod +x "$node.part"
  mv "$node.part" "$node"
fi
[ -x "$node" ] || node=node
out="${1:-.}"
rm -f "$out/gpu-check.md" # of a run before: whether there is one says how this one went
code=0
"$node" "$here/gpu-check.mjs" "$out" || code=$?
[ -f "$out/gpu-check.md" ] || exit "$code" # there was no GPU to run on, which it said

sanitizer="${LOWBIT_SANITIZER:-}"
if [ -z "$sanitizer" ]; then
  sanitizer="$(command -v compute-sanitizer || true)"
  [ -n "$sanitizer" ] || sanitizer=/usr/local/cuda/bin/compute-sanitizer
fi
if [ "$sanitizer" = off ] || [ ! -x "$sanitizer" ]; then
  echo "gpu-check: SKIPPED compute-sanitizer: it is not installed (LOWBIT_SANITIZER names one)" >&2
  printf '\ncompute-sanitizer: skipped, it is not installed.\n' >> "$out/gpu-check.md"
  exit "$code"
fi
for tool in memcheck racecheck initcheck synccheck; do
  echo "compute-sanitizer $tool ..."
  if LOWBIT_GPU_ONLY=kit "$sanitizer" --tool "$tool" --target-processes all --error-exitcode 3 "$node" "$here/gpu-check.mjs" "$out" \
    > "$out/sanitizer-$tool.txt" 2>&1; then
    verdict='found nothing'
  else
    verdict="failed ($?), see sanitizer-$tool.txt"
    code=1
  fi
  echo "  $verdict"
  printf '\ncompute-sanitizer %s: %s.\n' "$tool" "$verdict" >> "$out/gpu-check.md"
done
exit "$code"

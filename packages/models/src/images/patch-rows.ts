// Pixels as the input of a tower.

import { float32Tensor, type HostTensor, type ImageDescription, toFloat32 } from '@lowbit/core';

/** Rows of a convolution over patches whose stride is their size, after a row of zeros where there is a class token: the input `patches` of a tower. */
export function patchRows(pixels: HostTensor, { channels, height, width, patch, prefix }: ImageDescription): HostTensor {
  const values = toFloat32(pixels);
  const across = width / patch;
  const rows = prefix + (height / patch) * across;
  const length = channels * patch ** 2;
  const out = new Float32Array(rows * length);
  let at = prefix * length;
  for (let tile = 0; tile < rows - prefix; tile++) {
    const [top, left] = [Math.floor(tile / across) * patch, (tile % across) * patch];
    for (let channel = 0; channel < channels; channel++) {
      for (let y = 0; y < patch; y++) {
        const from = (channel * height + top + y) * width + left;
        out.set(values.subarray(from, from + patch), at);
        at += patch;
      }
    }
  }
  return float32Tensor([rows, length], out);
}

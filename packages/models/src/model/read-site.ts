// Reading the weight of a linear, however a checkpoint has it.

import {
  type Checkpoint,
  elementCount,
  fitInputs,
  type HostTensor,
  type Matrix,
  type QuantizedTensor,
  type SitePlace,
  siteTensor,
  transpose,
} from '@lowbit/core';

/**
 * The weight of a linear as [out, in], however the checkpoint has it: quantized, in its stored format and with the in_features of the model; else dense,
 * turned if it is stored as [in, out], and cut out of the tensor that it shares with others. Throws ERR_TENSOR_MISMATCH, and what the checkpoint throws.
 */
export async function readSite(
  checkpoint: Pick<Checkpoint, 'quantized' | 'linear' | 'tensor'>,
  site: SitePlace,
  options: { readonly signal?: AbortSignal | undefined } = {},
): Promise<QuantizedTensor> {
  const { path, shape, stacked, transposed } = site;
  if (stacked && !checkpoint.quantized.has(path)) {
    const { name, from } = siteTensor(site);
    const { dtype, data } = await checkpoint.tensor(name, { ...options, range: [from, from + elementCount(shape)] });
    return dense({ dtype, shape, data });
  }
  const weight = await checkpoint.linear(path, options);
  return transposed && !checkpoint.quantized.has(path) ? dense(transpose(weight.parts.weight!)) : fitInputs(weight, shape);
}

const dense = (weight: HostTensor): QuantizedTensor => ({
  format: { kind: 'dense', dtype: weight.dtype },
  shape: weight.shape as Matrix,
  parts: { weight },
});

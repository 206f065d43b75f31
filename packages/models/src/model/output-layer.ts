// Quantizing the output layer while it is loaded.

import {
  type CallOptions,
  codecFor,
  type Format,
  isLowbitError,
  isQuantizer,
  type LinearUse,
  LowbitError,
  type Program,
  type QuantizedTensor,
  type Quantizer,
  quantize,
  type Runtime,
  type WeightOrigin,
} from '@lowbit/core';

/** Scales and zeros of 16 bits: their rounding is far below that of codes. */
const META = 'f16';

/** Formats with codecs of core's. */
const KINDS: ReadonlySet<string> = new Set(['affine', 'codebook', 'int8']);

/** Throws ERR_BAD_ARGUMENT for what is no quantizer. */
export function checkHead(head: unknown): Quantizer {
  if (isQuantizer(head)) return head;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'loadModel: head is no quantizer', {
    hint: 'Pass what a method returns, such as hqq({ bits: 8 }).',
  });
}

/** The linear whose product is the last of the program: that of the logits. Throws ERR_BAD_ARGUMENT for a program without linears. */
export function outputLinear(program: Program): number {
  const last = program.ops.findLast(({ op }) => op === 'linear');
  if (last?.op === 'linear') return last.weight;
  throw new LowbitError('ERR_BAD_ARGUMENT', 'loadModel: head is for models with an output layer', { hint: 'Leave it out.' });
}

/** The format that the output layer, stored as `format`, is given. Throws ERR_BAD_ARGUMENT if it is quantized, and what the quantizer throws. */
export function headFormat(format: Format, { path, shape }: LinearUse, quantizer: Quantizer): Format {
  if (format.kind === 'dense') {
    const quantized = quantizer.format(shape, META);
    if (!KINDS.has(quantized.kind)) return quantized; // its codec is the caller's
    try {
      codecFor(quantized).parts(quantized, shape);
    } catch (error) {
      if (!isLowbitError(error)) throw error;
      throw new LowbitError(error.code, `the output layer ${path} [${shape.join(', ')}] cannot be held so: ${error.message}`, {
        hint: 'Take another number of bits: 8 fit any layer.',
        details: { path, shape, format: quantized },
        cause: error,
      });
    }
    return quantized;
  }
  throw new LowbitError('ERR_BAD_ARGUMENT', `loadModel: ${path} is quantized already (${format.kind}), so head has nothing to do`, {
    hint: 'Leave head out, or start from the checkpoint that was not quantized.',
    details: { path, format },
  });
}

/** Of the quantized layer: with another quantizer it is another weight. */
export function quantizedOrigin(origin: WeightOrigin | undefined, { method, identity }: Quantizer): WeightOrigin | undefined {
  return origin && { ...origin, weight: `${origin.weight} by ${method}: ${identity}` };
}

export function quantizeHead(
  weight: QuantizedTensor,
  quantizer: Quantizer,
  options: CallOptions & { readonly runtime: Runtime },
): Promise<QuantizedTensor> {
  return quantize(weight.parts.weight!, quantizer, { ...options, metaDtype: META });
}

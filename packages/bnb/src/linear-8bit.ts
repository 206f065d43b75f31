// Linear8bitLt: a linear layer with an LLM.int8 weight, used as bitsandbytes' is.

import { checkBias, dequantize, type HostTensor, type Int8, type LinearModule, memoryReader, quantize } from '@lowbit/core';
import { int8 } from './int8.ts';
import {
  BnbLinear,
  type CreateOptions,
  checkLayerRuntime,
  checkPlace,
  type FloatLinear,
  prepareLayer,
  type StateOptions,
} from './linear.ts';
import { int8Settings } from './options.ts';
import { checkNames, refusal } from './refuse.ts';
import { decodeState, encodeState, type StateDict } from './state-dict.ts';

export interface Linear8bitLtOptions extends CreateOptions {
  /** Magnitude from which an activation's column is computed in floating point; 0, as in Python: none. transformers and `int8` have 6. */
  readonly threshold?: number;
}

export interface Linear8bitLtStateOptions extends StateOptions {
  /** See `Linear8bitLtOptions`: state dicts do not hold it. */
  readonly threshold?: number;
}

/**
 * A linear layer with an 8-bit weight. x is rounded to 8 bits, row by row, but for its outlier columns (see `Int8` of core); bitsandbytes with
 * `has_fp16_weights=False`. The result has the dtype of x.
 *
 * @example
 * using layer = await Linear8bitLt.create({ weight, bias }, { runtime, threshold: 6 });
 * const y = await layer.apply(x); // [..., in] -> [..., out]
 * layer.outliers; // { products: 1, columns: 3 }
 */
export class Linear8bitLt extends BnbLinear {
  private constructor(module: LinearModule, bias: HostTensor | undefined) {
    super(module, bias);
  }

  /**
   * Quantizes a layer. Its weight passes through f16.
   * Its tensors are not copied (the bias is kept as it is): do not write to them afterwards.
   * @throws ERR_BAD_ARGUMENT (options), ERR_TENSOR_MISMATCH (no matrix, a bias that does not fit), ERR_NON_FINITE, ERR_DTYPE_OVERFLOW (a weight beyond
   * f16), ERR_UNSUPPORTED_FORMAT or ERR_BACKEND_UNAVAILABLE (no backend takes it)
   */
  static async create(linear: FloatLinear, options: Linear8bitLtOptions): Promise<Linear8bitLt> {
    checkNames('Linear8bitLt', options, [...SHARED, 'onProgress']);
    checkLayerRuntime(options);
    const { threshold = 0, runtime, signal, onProgress, allowNonFinite = false } = options;
    const quantizer = int8({ threshold, allowNonFinite });
    const { shape } = memoryReader('weight', linear?.weight);
    const bias = linear.bias ?? undefined;
    if (bias !== undefined) checkBias(bias, shape[0]);
    await checkPlace(quantizer.format(shape, 'f32'), shape, options); // before the work
    const weight = await quantize(linear.weight, quantizer, { runtime, signal, onProgress });
    return new Linear8bitLt(await prepareLayer({ weight, bias }, undefined, options), bias);
  }

  /**
   * A layer from the tensors that `stateDict`, or Python's, gives; other entries are left alone.
   * Its tensors are kept, not copied: do not write to them afterwards.
   * @throws ERR_TENSOR_MISMATCH, ERR_UNSUPPORTED_FORMAT, ERR_NON_FINITE (all name the tensor), and what `create` throws for options
   */
  static async fromStateDict(state: StateDict | ReadonlyMap<string, HostTensor>, options: Linear8bitLtStateOptions): Promise<Linear8bitLt> {
    checkNames('Linear8bitLt', options, [...SHARED, 'path']);
    checkLayerRuntime(options);
    const { threshold = 0, path = '', allowNonFinite = false } = options;
    const { weight, bias } = await decodeState(state, path, { ...int8Settings({ threshold }), allowNonFinite });
    if (weight.format.kind !== 'int8') {
      throw refusal('Linear8bitLt', 'the state dict is that of a 4-bit layer', 'Use Linear4bit.fromStateDict.', { path });
    }
    return new Linear8bitLt(await prepareLayer({ weight, bias }, undefined, options), bias);
  }

  get threshold(): number {
    return (this.format as Int8).threshold;
  }

  /** The weight [out, in], f32. Throws ERR_DISPOSED. */
  async dequantize(): Promise<HostTensor> {
    return dequantize(this.held.weight);
  }

  stateDict(): StateDict {
    return encodeState({ ...this.held, weightDtype: undefined, storage: 'i8' });
  }
}

const SHARED = ['runtime', 'backend', 'signal', 'allowNonFinite', 'threshold'] as const satisfies readonly (keyof Linear8bitLtOptions)[];

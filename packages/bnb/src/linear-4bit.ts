// Linear4bit: a linear layer with an NF4 or FP4 weight, used as bitsandbytes' is.

import {
  type Codebook,
  castBias,
  checkBias,
  checkComputeDtype,
  checkOptionNames,
  type DType,
  dequantize,
  type HostTensor,
  type LinearDType,
  type LinearModule,
  type LowbitError,
  memoryReader,
  quantize,
} from '@lowbit/core';
import { encodeBitsAndBytesLinear, STORAGE_DTYPES } from '@lowbit/layouts';
import { fp4, nf4 } from './four-bit.ts';
import {
  BnbLinear,
  type CreateOptions,
  checkLayerRuntime,
  checkPlace,
  type FloatLinear,
  type LayerOptions,
  type LayerParts,
  prepareLayer,
  type StateOptions,
} from './linear.ts';
import { type QuantStorage, STORAGES } from './options.ts';
import { refusal } from './refuse.ts';
import { decodeState, encodeState, type StateDict } from './state-dict.ts';

export interface Linear4bitOptions extends CreateOptions {
  /** Default fp4, as in Python; nf4 is the better one. */
  readonly quantType?: 'nf4' | 'fp4';
  /** Double quantization. Default true, as in Python (transformers: false). */
  readonly compressStatistics?: boolean;
  /**
   * Dtype that products are computed in, and the bias is kept in. Default: x as it is at each call, and the bias as it was given, which Python then
   * rounds to the dtype of x.
   */
  readonly computeDtype?: LinearDType | undefined;
  /** What the state dict shows the packed codes as; it changes none of their bytes. Default uint8. */
  readonly quantStorage?: QuantStorage;
  /** Weights that share a magnitude. Default 64. */
  readonly blockSize?: number;
}

export interface Linear4bitStateOptions extends StateOptions {
  /** See `Linear4bitOptions.computeDtype`: state dicts do not hold it. */
  readonly computeDtype?: LinearDType | undefined;
}

/** What the format does not say. */
interface Identity {
  readonly computeDtype: LinearDType | undefined;
  readonly weightDtype: DType;
  readonly storage: DType;
}

/**
 * A linear layer with a 4-bit weight. x and bias are rounded to `computeDtype` if there is one, the backend multiplies with f32 weights and sums in f32 or wider, and the
 * result is rounded to the dtype of x.
 *
 * @example
 * using layer = await Linear4bit.create({ weight, bias }, { runtime, quantType: 'nf4', computeDtype: 'bf16' });
 * const y = await layer.apply(x); // [..., in] -> [..., out]
 * const again = await Linear4bit.fromStateDict(layer.stateDict(), { runtime, computeDtype: 'bf16' });
 */
export class Linear4bit extends BnbLinear {
  readonly #identity: Identity;

  private constructor(module: LinearModule, bias: HostTensor | undefined, identity: Identity) {
    super(module, bias);
    this.#identity = identity;
  }

  /**
   * Quantizes a layer.
   * Its tensors are not copied (the bias is kept as it is): do not write to them afterwards.
   * @throws ERR_BAD_ARGUMENT (options), ERR_TENSOR_MISMATCH (no matrix, a bias that does not fit), ERR_UNSUPPORTED_FORMAT (a weight of f64, codes that
   * `quantStorage` does not divide, no backend), ERR_BACKEND_UNAVAILABLE, ERR_NON_FINITE
   */
  static async create(linear: FloatLinear, options: Linear4bitOptions): Promise<Linear4bit> {
    checkOptionNames('Linear4bit', options, CREATE_OPTIONS);
    checkLayerRuntime(options);
    const { quantType = 'fp4', compressStatistics: doubleQuant = true, quantStorage = 'uint8', blockSize = 64 } = options;
    if (quantType !== 'nf4' && quantType !== 'fp4') throw badOption('quantType', quantType, 'Use nf4 or fp4.');
    if (typeof doubleQuant !== 'boolean') throw badOption('compressStatistics', doubleQuant, 'Use true or false.');
    if (!STORAGES.includes(quantStorage)) throw badOption('quantStorage', quantStorage, `Use one of ${STORAGES.join(', ')}.`);
    const { computeDtype, runtime, signal, onProgress, allowNonFinite = false } = options;
    if (computeDtype !== undefined) checkComputeDtype(computeDtype);
    const { shape, dtype: weightDtype } = memoryReader('weight', linear?.weight);
    const bias = linear.bias ?? undefined;
    if (bias !== undefined) checkBias(bias, shape[0]);
    const quantizer = (quantType === 'nf4' ? nf4 : fp4)({ doubleQuant, blockSize, allowNonFinite });
    const storage = STORAGE_DTYPES.get(quantStorage)!;
    const format = quantizer.format(shape, 'f32');
    // Before the work: what could not be saved or run is not made.
    encodeBitsAndBytesLinear({ path: '', shape, format, weightDtype, storage });
    await checkPlace(format, shape, options);
    const weight = await quantize(linear.weight, quantizer, { runtime, signal, onProgress });
    return Linear4bit.#place({ weight, bias }, { computeDtype, weightDtype, storage }, options);
  }

  /**
   * A layer from the tensors that `stateDict`, or Python's, gives; other entries are left alone.
   * Its tensors are kept, not copied: do not write to them afterwards.
   * @throws ERR_TENSOR_MISMATCH, ERR_BAD_CHECKPOINT, ERR_UNSUPPORTED_FORMAT, ERR_NON_FINITE (all name the tensor), and what `create` throws for options
   */
  static async fromStateDict(state: StateDict | ReadonlyMap<string, HostTensor>, options: Linear4bitStateOptions): Promise<Linear4bit> {
    checkOptionNames('Linear4bit', options, STATE_OPTIONS);
    checkLayerRuntime(options);
    const { computeDtype, path = '' } = options;
    if (computeDtype !== undefined) checkComputeDtype(computeDtype);
    const { weight, bias, weightDtype, storage } = await decodeState(state, path, options);
    if (weightDtype === undefined) {
      throw refusal('Linear4bit', 'the state dict is that of an 8-bit layer', 'Use Linear8bitLt.fromStateDict.', { path });
    }
    return Linear4bit.#place({ weight, bias }, { computeDtype, weightDtype, storage }, options);
  }

  static async #place({ weight, bias }: LayerParts, identity: Identity, options: LayerOptions): Promise<Linear4bit> {
    const { computeDtype } = identity;
    const kept = bias && computeDtype ? castBias(bias, computeDtype) : bias;
    return new Linear4bit(await prepareLayer({ weight, bias: kept }, computeDtype, options), kept, identity);
  }

  /** undefined: each product in the dtype of its x. */
  get computeDtype(): LinearDType | undefined {
    return this.#identity.computeDtype;
  }

  /** Dtype of the weight that was quantized. */
  get weightDtype(): DType {
    return this.#identity.weightDtype;
  }

  /** `nf4` or `fp4`. */
  get quantType(): 'nf4' | 'fp4' {
    return (this.format as Codebook).table as 'nf4' | 'fp4';
  }

  /** The weight [out, in] in the dtype that it had, rounded to it once. Throws ERR_DISPOSED. */
  async dequantize(): Promise<HostTensor> {
    return dequantize(this.held.weight, { dtype: this.weightDtype as LinearDType });
  }

  stateDict(): StateDict {
    const { weightDtype, storage } = this.#identity;
    return encodeState({ ...this.held, weightDtype, storage });
  }
}

const SHARED = ['runtime', 'backend', 'signal', 'allowNonFinite', 'computeDtype'] as const satisfies readonly (keyof Linear4bitOptions)[];
const CREATE_OPTIONS: readonly (keyof Linear4bitOptions)[] = [
  ...SHARED,
  ...(['quantType', 'compressStatistics', 'quantStorage', 'blockSize', 'onProgress'] as const),
];
const STATE_OPTIONS: readonly (keyof Linear4bitStateOptions)[] = [...SHARED, 'path'];

function badOption(name: string, value: unknown, hint: string): LowbitError {
  return refusal('Linear4bit', `${name} cannot be ${typeof value === 'string' ? JSON.stringify(value) : String(value)}`, hint, {
    option: name,
    value,
  });
}

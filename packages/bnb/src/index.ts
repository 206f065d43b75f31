// The public names of @lowbit/bnb.

export { type Blockwise, type BlockwiseOptions, dequantizeBlockwise, quantizeBlockwise } from './blockwise.ts';
export { type BitsAndBytes, type BitsAndBytesOptions, bitsAndBytesConfig, type RulesOptions } from './config.ts';
export { dynamicMap } from './dynamic-map.ts';
export { fp4, nf4 } from './four-bit.ts';
export { int8 } from './int8.ts';
export type { BnbLinear, BnbRuntime, CreateOptions, FloatLinear, LayerOptions, StateOptions } from './linear.ts';
export { Linear4bit, type Linear4bitOptions, type Linear4bitStateOptions } from './linear-4bit.ts';
export { Linear8bitLt, type Linear8bitLtOptions, type Linear8bitLtStateOptions } from './linear-8bit.ts';
export type { OffloadOptions } from './offload.ts';
export type { ComputeDtype, Fp4Options, Int8Options, Nf4Options } from './options.ts';
export { defaultSkipModules, isSkipped, type SkipOptions, type TransformersRelease } from './skip.ts';
export type { StateDict } from './state-dict.ts';

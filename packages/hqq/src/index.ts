export { HQQ_BACKENDS, type HqqBackend } from './backends.ts';
export {
  type BaseQuantizeOptions,
  baseQuantizeConfig,
  type HqqConfig,
  type HqqConfigOptions,
  hqqConfig,
  type LinearConfig,
  type QuantConfigDict,
  type QuantParams,
} from './config.ts';
export type { PythonKeys } from './config-keys.ts';
export { hqq } from './hqq.ts';
export { type InferenceOptions, prepareForInference } from './inference.ts';
export { HqqLinear } from './linear.ts';
export type { FloatLinear, FromStateDictOptions, HqqLinearOptions, HqqRuntime } from './linear-options.ts';
export type { HqqBits, HqqOptions } from './options.ts';
export type { HqqSolver, LeastSquaresOptions, ProximalOptions, ProximalV2Options } from './solver-options.ts';
export type { StateDict } from './state-dict.ts';

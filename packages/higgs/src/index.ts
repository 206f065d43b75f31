// The public names of @lowbit/higgs.

export { type HiggsConfig, type HiggsConfigOptions, higgsConfig } from './config.ts';
export type { HiggsBits, HiggsDim } from './grid.ts';
export { higgs } from './higgs.ts';
export {
  type FloatLinear,
  HiggsLinear,
  type HiggsLinearOptions,
  type HiggsLinearStateOptions,
  type HiggsRuntime,
  type LayerOptions,
} from './linear.ts';
export type { HiggsOptions } from './options.ts';
export { isSkipped, type SkipOptions } from './skip.ts';
export type { LayerFacts, StateDict } from './state-dict.ts';

// The library behind the command: paths in, models and folders out. It composes the packages of lowbit; take those directly where you need less.

export { type Fp4Options, fp4, type Int8Options, int8, type Nf4Options, nf4 } from '@lowbit/bnb';
export type { ProgressEvent, QuantizedTensor, Quantizer, Rule } from '@lowbit/core';
export {
  dequantize,
  isLowbitError,
  LowbitError,
  quantize,
  referenceBackend,
} from '@lowbit/core';
export { type HiggsOptions, higgs } from '@lowbit/higgs';
export { type HqqOptions, hqq } from '@lowbit/hqq';
export { type MergeReport, type MergeShardsOptions, mergeShards, openCheckpoint } from '@lowbit/hub';
export {
  type BenchOptions,
  type BenchResult,
  benchModel,
  type ChatMessage,
  type GenerateOptions,
  type GenerateResult,
  klDivergence,
  type LanguageModel,
  perplexity,
  type TokenEvent,
} from '@lowbit/models';
export {
  type AllocatedLinear,
  type AllocateModelOptions,
  type AllocatePer,
  allocateModel,
  type ModelAllocation,
} from './allocate-model.ts';
export { type BackendSettings, type FindBackendsOptions, findBackends } from './backends.ts';
export { choicesAcross, defaultChoices, type ModelChoice, makeChoices } from './choices.ts';
export type { BenchRow } from './commands/bench-rows.ts';
export type { CachedModelFacts, CacheReport, DownloadedFacts, RemovedReport } from './commands/cache.ts';
export type { CompareReport } from './commands/compare.ts';
export type { DoctorReport, Finding } from './commands/doctor.ts';
export type { EstimateReport } from './commands/estimate.ts';
export type { InspectReport } from './commands/inspect.ts';
export type { LoginReport } from './commands/login.ts';
export type { PerplexityReport } from './commands/perplexity.ts';
export type { PullReport } from './commands/pull.ts';
export type { PushReport } from './commands/push.ts';
export type { SensitivityReport } from './commands/sensitivity.ts';
export {
  type ConversionPlan,
  type ConvertModelOptions,
  type ConvertModelReport,
  convertModel,
  type PlanConvertOptions,
  planConversion,
} from './convert-model.ts';
export {
  type FindImportanceOptions,
  type FoundImportance,
  findImportance,
  type ImportanceReport,
  type ImportanceSource,
} from './importance.ts';
export { type LoadModelOptions, loadModel } from './load-model.ts';
export {
  type CompareModelsOptions,
  compareLinears,
  compareModels,
  type MeasuredLoss,
  type ModelComparison,
  measureLoss,
} from './measure.ts';
export type { MethodPlugin, PluginParts } from './method-plugin.ts';
export { openModelFolder } from './open.ts';
export { PRESETS, type PresetName, presetRecipe } from './presets.ts';
export {
  type ModelPlan,
  type PlanModelOptions,
  planModel,
  type QuantizeModelOptions,
  type QuantizeModelReport,
  type QuantizeModelShardOptions,
  type QuantizeModelShardReport,
  quantizeModel,
  quantizeModelShard,
} from './quantize-model.ts';
export { parseRecipe, type Recipe, readRecipe, recipeOptions, recipeText, writeRecipe } from './recipe.ts';
export type { FrontierPoint, QualityReport, Sample } from './report/data.ts';
export { reportHtml } from './report/page.ts';
export { type QualityRow, qualityTable } from './report/quality-table.ts';
export type { BackendUse, RunsOn } from './running-on.ts';
export type { SensitivityOptions, TestedOn, TestedSensitivities } from './sensitivity.ts';
export type { TagRow } from './tags.ts';

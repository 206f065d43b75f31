// The public names of @lowbit/models.

export { defaultAdapters } from './adapters/index.ts';
export { llama } from './adapters/llama.ts';
export { type DecoderFamily, decoderAdapter } from './decoder/adapter.ts';
export type * from './decoder/spec.ts';
export { type BenchOptions, type BenchResult, benchModel } from './evaluate/bench.ts';
export { collectImportance, type ImportanceOptions } from './evaluate/collect-importance.ts';
export { type CheckpointImportanceOptions, checkpointImportance } from './evaluate/importance.ts';
export { type Divergence, klDivergence } from './evaluate/kl-divergence.ts';
export { type Perplexity, type PerplexityOptions, perplexity, type Scorer, summarize } from './evaluate/perplexity.ts';
export { randomTokens } from './evaluate/random-tokens.ts';
export {
  type LinearSensitivity,
  type MeasureSensitivitiesOptions,
  measureSensitivities,
  type Sensitivities,
  type SensitivityMetric,
} from './evaluate/sensitivity.ts';
export { type EvaluationWindow, evaluationWindows, type WindowOptions } from './evaluate/windows.ts';
export type { BatchEvent, BatchRequest } from './model/batch.ts';
export { type EstimateOptions, estimateMemory, type MemoryEstimate, type Verdict } from './model/estimate.ts';
export type { FinishReason, GenerateOptions, GenerateResult, TokenEvent } from './model/generate-options.ts';
export type { BatchOptions, LanguageModel, LogitRows, ModelMemory } from './model/language-model.ts';
export { type LoadModelOptions, loadModel } from './model/load-model.ts';
export type { PromptCache } from './model/prompt-cache.ts';
export type { PromptLookup } from './model/prompt-lookup.ts';
export type { TokenHistory } from './sampling/history.ts';
export { type LogitEdits, type LogitsProcessor, processLogits, type SamplingSettings } from './sampling/process.ts';
export { createRandom, type Random } from './sampling/random.ts';
export type * from './sampling/settings.ts';
export type { ChatMessage } from './text/chat-template.ts';
export { createTokenizer, loadTokenizer, type Tokenizer } from './text/tokenizer.ts';

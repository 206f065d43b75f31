// The public names of @lowbit/models.

export {
  cutProgram,
  formatPlacement,
  type LoadedProgram,
  type LoadOptions,
  type LoadWeight,
  loadProgram,
  type Placed,
  ProgramBuilder,
  type ProgramPiece,
  type ProgramRuntime,
} from '@lowbit/program';
export { bloom } from './adapters/bloom.ts';
export { byName } from './adapters/by-name.ts';
export { clip, clipVision } from './adapters/clip.ts';
export { gemma, gemma2, gemma3 } from './adapters/gemma.ts';
export { gptNeox } from './adapters/gpt-neox.ts';
export { gpt2 } from './adapters/gpt2.ts';
export { granite } from './adapters/granite.ts';
export { defaultAdapters } from './adapters/index.ts';
export { type LlamaTraits, llama, llamaSpec } from './adapters/llama.ts';
export { llava } from './adapters/llava.ts';
export { mistral } from './adapters/mistral.ts';
export { mixtral } from './adapters/mixtral.ts';
export { olmo2 } from './adapters/olmo2.ts';
export { opt } from './adapters/opt.ts';
export { phi } from './adapters/phi.ts';
export { phi3 } from './adapters/phi3.ts';
export { qwen2, qwen3 } from './adapters/qwen.ts';
export { qwen2Moe, qwen3Moe } from './adapters/qwen-moe.ts';
export { smollm3 } from './adapters/smollm3.ts';
export { starcoder2 } from './adapters/starcoder2.ts';
export { t5 } from './adapters/t5.ts';
export { timm } from './adapters/timm.ts';
export { type DecoderFamily, decoderAdapter } from './decoder/adapter.ts';
export type * from './decoder/spec.ts';
export { type BenchOptions, type BenchResult, benchModel } from './evaluate/bench.ts';
export {
  collectImportance,
  type ImportanceKeeper,
  type ImportanceOptions,
  type ImportanceState,
  type MomentKinds,
} from './evaluate/collect-importance.ts';
export { type CheckpointImportanceOptions, checkpointImportance } from './evaluate/importance.ts';
export { type ImportanceMemory, type ImportanceMemoryOptions, importanceMemory } from './evaluate/importance-memory.ts';
export { type Divergence, klDivergence, type Texts } from './evaluate/kl-divergence.ts';
export { type LayerImportance, type LayerImportanceOptions, layerImportance } from './evaluate/layer-importance.ts';
export { type LinearError, type LinearErrorsOptions, linearErrors } from './evaluate/linear-errors.ts';
export { type Perplexity, type PerplexityOptions, perplexity, type Scorer, summarize } from './evaluate/perplexity.ts';
export { randomTokens } from './evaluate/random-tokens.ts';
export {
  type LinearSensitivity,
  type MeasureSensitivitiesOptions,
  measureSensitivities,
  type Sensitivities,
  type SensitivityMetric,
} from './evaluate/sensitivity.ts';
export { type WeightImportanceOptions, weightImportance } from './evaluate/weight-importance.ts';
export { type EvaluationWindow, evaluationWindows, type WindowOptions } from './evaluate/windows.ts';
export { type FeedbackOptions, type FeedbackQuantizer, withFeedback } from './feedback/with-feedback.ts';
export type { DecodeImageOptions } from './images/decode.ts';
export { decodeImage } from './images/decode-image.ts';
export type { ImageInput, ImagePixels, RgbImage } from './images/image.ts';
export { type ResizeFilter, type ResizeWindow, resize as resizeImage } from './images/resize.ts';
export type { BatchEvent, BatchRequest } from './model/batch.ts';
export { contextLengthOf, vocabularyOf } from './model/context-length.ts';
export { type EstimateOptions, estimateMemory, type MemoryEstimate, type Verdict } from './model/estimate.ts';
export type { ForwardOptions, LogitRows } from './model/forward.ts';
export type { FinishReason, GenerateOptions, GenerateResult, TokenEvent } from './model/generate-options.ts';
export { type ImageTower, type LoadImageTowerOptions, loadImageTower } from './model/image-tower.ts';
export type { BatchOptions, LanguageModel, ModelMemory } from './model/language-model.ts';
export { type LoadModelOptions, loadModel } from './model/load-model.ts';
export type { PromptCache } from './model/prompt-cache.ts';
export type { PromptLookup } from './model/prompt-lookup.ts';
export { readSite } from './model/read-site.ts';
export type { TokenHistory } from './sampling/history.ts';
export { type LogitEdits, type LogitsProcessor, processLogits, type SamplingSettings } from './sampling/process.ts';
export { createRandom, type Random } from './sampling/random.ts';
export type * from './sampling/settings.ts';
export type { ChatMessage } from './text/chat-template.ts';
export type { TokenBytes } from './text/token-bytes.ts';
export { createTokenizer, loadTokenizer, type Tokenizer } from './text/tokenizer.ts';

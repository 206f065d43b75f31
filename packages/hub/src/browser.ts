// The public names of @lowbit/hub in browsers, where `import '@lowbit/hub'` gives this module: folders are chosen files, directory handles, addresses or
// models of the browser's store instead of paths. Nothing here, or in what it imports, knows Node.

export { directoryFolder, filesFolder, type PathFile } from './browser/blob-folder.ts';
export type { BlobLike, DirectoryHandleLike, FileLike } from './browser/dom.ts';
export { openCheckpoint, type QuantizeCheckpointOptions, quantizeCheckpoint } from './browser/quantize.ts';
export {
  type BrowserStore,
  type BrowserStoreOptions,
  openBrowserStore,
  type StoredFolder,
  type StoredModel,
} from './browser/store.ts';
export { createStoreSink } from './browser/store-output.ts';
export { type UrlFolderOptions, urlFolder } from './browser/url-folder.ts';
export type { OpenCheckpointOptions, StoredCheckpoint } from './checkpoint.ts';
export { writeConfig } from './config-file.ts';
export type { OpenFile, RandomFile } from './file.ts';
export type { ModelFolder } from './folder.ts';
export { memoryFootprint } from './footprint.ts';
export { GGUF_ARCHITECTURES } from './gguf/architectures.ts';
export { type GgufFolder, ggufFolder } from './gguf/folder.ts';
export type { GgufHeader, GgufNumbers, GgufTensor, GgufValue } from './gguf/header.ts';
export type { GgmlType } from './gguf/types.ts';
export { bitsAndBytesLayout } from './layouts/bitsandbytes.ts';
export { BUILTIN_LAYOUTS } from './layouts/builtin.ts';
export { higgsLayout } from './layouts/higgs.ts';
export { hqqLayout } from './layouts/hqq.ts';
export { hqqNestedLayout } from './layouts/hqq-nested.ts';
export { hqqSafetensorsLayout } from './layouts/hqq-safetensors.ts';
export { mixedLayout } from './layouts/mixed.ts';
export { checkpointNotes } from './notes.ts';
export { PICKLE_LIMITS, type PickleLimits } from './pickle/limits.ts';
export { unpickle } from './pickle/unpickle.ts';
export type { PickleDict, PickleKey, PickleValue, TorchDType, TorchStorage, TorchTensor } from './pickle/values.ts';
export type { LateImportance } from './plan/late-importance.ts';
export { type MemorySink, memorySink } from './plan/memory-sink.ts';
export { DEFAULT_MAX_MEMORY, type ExecuteOptions, type ExecuteReport, executePlan, type LinearReport } from './plan/pipeline.ts';
export { keptByDefault, type PlanOptions, type PlanSummary, planCheckpoint, summarizePlan } from './plan/plan.ts';
export { type CheckpointPlan, type LinearWork, lateTensors, type PlannedTensor, type TensorOrigin } from './plan/plan-tensors.ts';
export { linearBytes, plannedBytes } from './plan/stored-bytes.ts';
export { type PlanQuantizationOptions, planQuantization } from './plan-quantization.ts';
export type { FileSource, SourceFile, TensorPlace } from './reading.ts';
export * from './safetensors/index.ts';
export type { SafetensorsSink, SafetensorsSinkOptions } from './safetensors/sink.ts';
export type { QuantizationPlan, QuantizationReport, WriteModelOptions } from './write-model.ts';

export { type FolderCheckpoint, openCheckpoint } from './checkpoint.node.ts';
export type { OpenCheckpointOptions, StoredCheckpoint } from './checkpoint.ts';
export { writeConfig } from './config-file.ts';
export {
  type ConversionReport,
  type ConvertCheckpointOptions,
  convertCheckpoint,
  type HiggsPacking,
  type PlanConversionOptions,
  planConversion,
} from './convert.node.ts';
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
export { type OpenTorchOptions, openTorchFile } from './pickle/source.node.ts';
export type { TorchFile, TorchSource } from './pickle/source.ts';
export { unpickle } from './pickle/unpickle.ts';
export type { PickleDict, PickleKey, PickleValue, TorchDType, TorchStorage, TorchTensor } from './pickle/values.ts';
export type { LateImportance } from './plan/late-importance.ts';
export { type MemorySink, memorySink } from './plan/memory-sink.ts';
export { DEFAULT_MAX_MEMORY, type ExecuteOptions, type ExecuteReport, executePlan, type LinearReport } from './plan/pipeline.ts';
export { keptByDefault, type PlanOptions, type PlanSummary, planCheckpoint, summarizePlan } from './plan/plan.ts';
export { type CheckpointPlan, type LinearWork, lateTensors, type PlannedTensor, type TensorOrigin } from './plan/plan-tensors.ts';
export { linearBytes, plannedBytes } from './plan/stored-bytes.ts';
export { type PlanQuantizationOptions, planQuantization } from './plan-quantization.ts';
export { type QuantizeCheckpointOptions, quantizeCheckpoint } from './quantize.node.ts';
export type { FileSource, SourceFile, TensorPlace } from './reading.ts';
export { type CachedRepo, listHubCache, removeFromHubCache, snapshotOf } from './remote/cache.node.ts';
export { type CardFacts, modelCard } from './remote/card.ts';
export { openRemoteCheckpoint, type RemoteCheckpoint } from './remote/checkpoint.ts';
export { createHubClient, type HubClient, type HubClientOptions } from './remote/client.ts';
export { type DownloadedModel, type DownloadOptions, downloadModel } from './remote/download.node.ts';
export { listModel, type RemoteEntry, type RemoteListing } from './remote/listing.ts';
export { type OpenHubOptions, openHubCheckpoint } from './remote/open.node.ts';
export { type Pushed, type PushOptions, type PushPlan, planPush, pushModel } from './remote/push.node.ts';
export { type HubName, parseRepoName, type RepoName, readHubName } from './remote/repo.ts';
export type { SelectOptions } from './remote/select.ts';
export { type HubSettings, hubClient, hubSettings } from './remote/settings.node.ts';
export { type TokenOwner, tokenOwner } from './remote/whoami.ts';
export * from './safetensors/index.ts';
export { type Lock, type LockOptions, takeLock } from './safetensors/lock.node.ts';
export { createSafetensorsSink } from './safetensors/sink.node.ts';
export type { SafetensorsSink, SafetensorsSinkOptions } from './safetensors/sink.ts';
export { type OpenSafetensorsOptions, openSafetensors, readSafetensorsHeader } from './safetensors/source.node.ts';
export type { SafetensorsFile, SafetensorsSource } from './safetensors/source.ts';
export type { Shard } from './scale-out/divide.ts';
export { type MergeReport, type MergeShardsOptions, mergeShards } from './scale-out/merge-shards.node.ts';
export { type QuantizeShardOptions, quantizeShard, type ShardReport } from './scale-out/quantize-shard.node.ts';
export { checkOutputFree } from './write-model.node.ts';
export type { QuantizationPlan, QuantizationReport, WriteModelOptions } from './write-model.ts';

export {
  BUILTIN_LAYOUTS,
  type FolderCheckpoint,
  type OpenCheckpointOptions,
  openCheckpoint,
} from './checkpoint.node.ts';
export { writeConfig } from './config-file.ts';
export { hqqLayout } from './layouts/hqq.ts';
export type { HqqSettings } from './layouts/hqq-format.ts';
export { type OpenTorchOptions, openTorchFile, type TorchFile, type TorchSource } from './pickle/source.node.ts';
export { PICKLE_LIMITS, type PickleLimits, unpickle } from './pickle/unpickle.ts';
export type { PickleDict, PickleKey, PickleValue, TorchDType, TorchStorage, TorchTensor } from './pickle/values.ts';
export {
  type PlanQuantizationOptions,
  planQuantization,
  type QuantizationPlan,
  type QuantizationReport,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
} from './quantize.node.ts';
export type { FileSource, SourceFile } from './reading.ts';
export { type FileLayout, layoutFile } from './safetensors/build.ts';
export { headerLength, MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader, type TensorPlace } from './safetensors/header.ts';
export {
  DEFAULT_SHARD_SIZE,
  type PlannedFile,
  PT_METADATA,
  planFiles,
  planSafetensors,
  planShards,
  type SafetensorsPlan,
  type ShardOptions,
} from './safetensors/shards.ts';
export { createSafetensorsSink, type SafetensorsSink, type SafetensorsSinkOptions } from './safetensors/sink.node.ts';
export {
  type OpenSafetensorsOptions,
  openSafetensors,
  readSafetensorsHeader,
  type SafetensorsFile,
  type SafetensorsSource,
} from './safetensors/source.node.ts';

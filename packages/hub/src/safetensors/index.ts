// @lowbit/hub/safetensors: the format itself as pure functions over bytes, for browsers and anything else without files.

export { type FilePlan, type PlanFileOptions, planFile } from './build.ts';
export { headerLength, MAX_HEADER_BYTES, parseHeader, type SafetensorsHeader, type TensorPlace } from './header.ts';
export {
  DEFAULT_SHARD_SIZE,
  type PlanFilesOptions,
  type PlannedFile,
  PT_METADATA,
  planFiles,
  planSafetensors,
  planShards,
  type SafetensorsPlan,
  type ShardOptions,
  settlePlan,
} from './shards.ts';

export {
  BUILTIN_LAYOUTS,
  type FolderCheckpoint,
  type OpenCheckpointOptions,
  openCheckpoint,
} from './checkpoint.node.ts';
export { writeConfig } from './config-file.ts';
export {
  type ConversionReport,
  type ConvertCheckpointOptions,
  convertCheckpoint,
  type HiggsPacking,
  type PlanConversionOptions,
  planConversion,
} from './convert.node.ts';
export { bitsAndBytesLayout } from './layouts/bitsandbytes.ts';
export { higgsLayout } from './layouts/higgs.ts';
export { hqqLayout } from './layouts/hqq.ts';
export { hqqNestedLayout } from './layouts/hqq-nested.ts';
export { hqqSafetensorsLayout } from './layouts/hqq-safetensors.ts';
export { type OpenTorchOptions, openTorchFile, type TorchFile, type TorchSource } from './pickle/source.node.ts';
export { PICKLE_LIMITS, type PickleLimits, unpickle } from './pickle/unpickle.ts';
export type { PickleDict, PickleKey, PickleValue, TorchDType, TorchStorage, TorchTensor } from './pickle/values.ts';
export {
  type PlanQuantizationOptions,
  planQuantization,
  type QuantizeCheckpointOptions,
  quantizeCheckpoint,
} from './quantize.node.ts';
export type { FileSource, SourceFile } from './reading.ts';
export * from './safetensors/index.ts';
export { createSafetensorsSink, type SafetensorsSink, type SafetensorsSinkOptions } from './safetensors/sink.node.ts';
export {
  type OpenSafetensorsOptions,
  openSafetensors,
  readSafetensorsHeader,
  type SafetensorsFile,
  type SafetensorsSource,
} from './safetensors/source.node.ts';
export type { QuantizationPlan, QuantizationReport, WriteModelOptions } from './write-model.node.ts';

export { type Arena, type ArenaTensor, type Lifetime, placeTensors } from './backend/arena.ts';
export { checkLinearBias, checkOperands } from './backend/checks.ts';
export { type CountedExecutable, Holdings } from './backend/holdings.ts';
export { OP_NAMES } from './backend/ops.ts';
export { relativeBiasTable } from './backend/relative-bias.ts';
export { type RopeInForce, ropeInForce } from './backend/rope.ts';
export { checkShortened, SequenceTable } from './backend/sequences.ts';
export { type DeviceMemory, hostMemory, Slots } from './backend/slots.ts';
export { injectedRows, inputRows } from './backend/step-rows.ts';

// The public names of @lowbit/core. Contracts are types; what is not listed here is internal.

export { adapterFor, modelTypeOf } from './adapters.ts';
export { breather } from './breath.ts';
export { channelWeights } from './channel-weights.ts';
export { FP4_TABLE, NF4_TABLE } from './codecs/four-bit-tables.ts';
export {
  BUILTIN_CODECS,
  codecFor,
  fitInputs,
  type Grouping,
  grouping,
  hadamardBlocks,
  INT8_STEP,
  isHadamardSize,
  productDtype,
  rotatedBasis,
  storedColumns,
} from './codecs/index.ts';
export { disposeAll } from './dispose.ts';
export { disposedError } from './disposed.ts';
export {
  byteLength,
  castFloat,
  DTYPE_BYTES,
  elementCount,
  elements,
  FLOAT_DTYPES,
  firstNonFinite,
  fromBf16,
  fromF16,
  readFloat32,
  roundTo,
  toF16,
  toFloat32,
  writeFloat32,
} from './dtype.ts';
export { glob } from './glob.ts';
export { castBias, checkBias, checkComputeDtype, checkRuntime } from './linear-checks.ts';
export { type LinearDType, LinearModule, type LinearModuleOptions, type LinearRuntime, linearBackend } from './linear-module.ts';
export { elementRange, memorySource } from './memory.ts';
export { checkOptionNames, nearestName } from './option-names.ts';
export {
  type FluteTile,
  fluteName,
  fluteRows,
  isLanePacking,
  isTilePacking,
  type LanePacking,
  type PackedRun,
  type Packing,
  packing,
  packLanes,
  rowBitsName,
  type TilePacking,
  type TileRun,
} from './pack/index.ts';
export { type PatchOptions, patchLinears } from './patch.ts';
export { inferResult, opConstants, opInputs, opLinears, opResults } from './program/infer.ts';
export { type Largest, largestOfRows } from './program/largest.ts';
export { type OutputRequest, outputRequests, outputsOf } from './program/outputs.ts';
export { validateProgram } from './program/validate.ts';
export { assertFinite, isQuantizer, memoryReader, memoryWriter, type QuantizeOptions, quantize } from './quantize.ts';
export {
  bitsPerWeight,
  type CodecOptions,
  dequantize,
  type QuantizationError,
  quantizationError,
  validateQuantized,
} from './quantized.ts';
export { quote } from './quote.ts';
export { isPlainRecord } from './record.ts';
export {
  type Demands,
  planStep,
  readDemands,
  type SequenceState,
  type Share,
  type Span,
  type StepPlan,
} from './reference/batch.ts';
export { ACTIVATIONS } from './reference/elementwise.ts';
export { type ReferenceOptions, referenceBackend } from './reference/index.ts';
export { checkRules, linearTag, linearTags, resolveRules } from './rules.ts';
export * from './runtime.ts';
export { checkSiteShape, type SitePlace, siteTensor } from './site-weight.ts';
export * from './spec/index.ts';
export { float32Tensor, hostTensor, transpose } from './tensor.ts';
export { availableThreads, sharedBytes, type WebWorker } from './workers/host.ts';
export { serveRoutines } from './workers/serve.ts';
export { createWorkers, poolFor, type Workers, type WorkersOptions, withWorkers } from './workers/workers.ts';

// How published files store one quantized linear, and JSON as they have it, as Python writes it. Not published: what a package imports of it is compiled into
// that package, so that neither checkpoints (@lowbit/hub) nor the state dicts of methods need each other for it, and who installs one method gets one layout.

export { isFourBit, isInt8, STORAGE_DTYPES } from './bnb-format.ts';
export {
  hasBitsAndBytes,
  type ReadBitsAndBytesOptions,
  readBitsAndBytesLinear,
  readBitsAndBytesLinears,
  type StoredBitsAndBytes,
} from './bnb-read.ts';
export { type FourBitType, WEIGHT_DTYPES } from './bnb-state.ts';
export { type BitsAndBytesRecord, encodeBitsAndBytesLinear } from './bnb-write.ts';
export {
  DEFAULT_HADAMARD,
  type HiggsDType,
  type HiggsFormat,
  type HiggsPacking,
  type HiggsSettings,
  higgsFormat,
  higgsPacking,
  isBlock as isHiggsBlock,
  isHiggs,
  MAX_HADAMARD,
} from './higgs-format.ts';
export { higgsGrid } from './higgs-grids.ts';
export { type HiggsFacts, hasHiggs, type ReadHiggsOptions, readHiggsLinear, readHiggsLinears } from './higgs-read.ts';
export { higgsTable } from './higgs-tables.ts';
export { encodeHiggsLinear, type HiggsRecord } from './higgs-write.ts';
export { type HqqSettings, NESTED_VERSION_KEY, partsOf, TORCH_DTYPES } from './hqq-format.ts';
export { acceptsNestedHqq, encodeNestedHqqLinear, nestedHqqTensors } from './hqq-nested.ts';
export { readHqqLinear, readHqqLinears } from './hqq-read.ts';
export { readHqqSettings, type StoredHqqSettings } from './hqq-settings.ts';
export { acceptsHqq, encodeHqqLinear, type HqqLinearRecord, hqqSettings, hqqTensors } from './hqq-write.ts';
export { type JsonFileOptions, parseJsonFile } from './json/file.ts';
export { fromJson, isArray, isNumber, isObject, type JsonNumber, type JsonRules, type JsonTree, parseJson, toJson } from './json/parse.ts';
export { compareCodePoints, pythonFloat, writeJson } from './json/write.ts';
export { layoutBytes } from './layout-bytes.ts';
export { specText } from './names.ts';
export { type SkipReader, skippingRules, skipTest } from './skipped-modules.ts';
export { layerEntries, type StateDict } from './state-dict.ts';
export { readStoredLinear, type StoredLinearOptions } from './stored-linear.ts';

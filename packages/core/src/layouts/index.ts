// @lowbit/core/layouts: how published files store one quantized linear. Apart from core itself: a program that reads or writes no files needs none of it,
// and neither checkpoints (@lowbit/hub) nor a method's state dicts need each other for it.

export { type HqqSettings, NESTED_VERSION_KEY, partsOf, specText, TORCH_DTYPES } from './hqq-format.ts';
export { acceptsNestedHqq, encodeNestedHqqLinear, nestedHqqTensors } from './hqq-nested.ts';
export { readHqqLinear, readHqqLinears } from './hqq-read.ts';
export { readHqqSettings, type StoredHqqSettings } from './hqq-settings.ts';
export { acceptsHqq, encodeHqqLinear, type HqqLinearRecord, hqqSettings, hqqTensors } from './hqq-write.ts';
export { layoutBytes } from './layout-bytes.ts';
export { readStoredLinear, type StoredLinearOptions } from './stored-linear.ts';

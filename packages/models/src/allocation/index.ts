// @lowbit/models/allocation: how many bits for which layer. Pure functions over numbers: they know no method, no model and no file.

export { type Allocated, type AllocateOptions, type Allocation, allocateBits, allocationOf } from './allocate.ts';
export type { AllocationBudget, AllocationChoice, AllocationLayer } from './problem.ts';
export { fitSensitivity, type SensitivityPoint } from './sensitivity.ts';

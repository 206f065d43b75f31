export { hqq } from './hqq.ts';
export type { HqqBits, HqqOptions, HqqSolverOptions } from './options.ts';

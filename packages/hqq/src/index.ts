export { hqq } from './hqq.ts';
export type { HqqBits, HqqOptions } from './options.ts';
export type { HqqSolver, LeastSquaresOptions, ProximalOptions, ProximalV2Options } from './solver-options.ts';

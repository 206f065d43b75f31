// Which solver finds the grid, and with what constants.

import { type JsonObject, LowbitError } from '@lowbit/core';

/** Constants of the half-quadratic solver. */
export interface ProximalOptions {
  /** Most steps. Default 20; 100 for `proximal-slow`. */
  readonly iterations?: number;
  /** The norm p of the objective ||W - (q - z) s||_p, 0 < p <= 1; default 0.7. */
  readonly norm?: number;
  /** Initial weight of the quadratic penalty; default 10. */
  readonly beta?: number;
  /**
   * Growth of beta per step. Default of `hqq`: 1 with release 0.2.8, since releases 0.2.7 to 0.2.8.post1 never apply it, and 1.01 with 0.1.8.
   * The others always apply it: above 1, default 1.01.
   */
  readonly kappa?: number;
}

export interface ProximalV2Options extends ProximalOptions {
  /** Least improvement of the layer's mean error that counts; default 0. */
  readonly tolerance?: number;
  /** Stop when the error no longer falls, with the zeros before (default; off for `proximal-slow`). Otherwise take every step. */
  readonly earlyStop?: boolean;
  /** First choose each scale among 129 within 5 % of the layer's mean; default false. */
  readonly scaleSearch?: boolean;
}

export interface LeastSquaresOptions {
  /** Most fits from each start; default 8. */
  readonly alternations?: number;
}

/**
 * What finds scale and zero of every group.
 *
 * `hqq`: the half-quadratic solver of the Python library, its default and ours. `proximal-v2`, `proximal-slow`: that library's variants.
 * `least-squares`: scale and zero fitted together, weighted by importance where the caller gives it; smaller errors in the same format.
 * A name alone takes that solver's defaults.
 */
export type HqqSolver =
  | SolverName
  | ({ readonly name: 'hqq' } & ProximalOptions)
  | ({ readonly name: 'proximal-v2' | 'proximal-slow' } & ProximalV2Options)
  | ({ readonly name: 'least-squares' } & LeastSquaresOptions);

export type SolverName = 'hqq' | 'proximal-v2' | 'proximal-slow' | 'least-squares';

/** A solver with every default filled in. */
export type SolverSettings =
  | ({ readonly name: 'hqq' } & Required<ProximalOptions>)
  | ({ readonly name: 'proximal-v2' } & Required<ProximalV2Options>)
  | ({ readonly name: 'least-squares' } & Required<LeastSquaresOptions>);

const NAMES: readonly string[] = ['hqq', 'proximal-v2', 'proximal-slow', 'least-squares'] satisfies readonly SolverName[];

/** ERR_BAD_ARGUMENT for an option of hqq(). */
export function badOption(name: string, value: unknown, hint: string): LowbitError {
  const text = typeof value === 'object' ? JSON.stringify(value) : String(value);
  return new LowbitError('ERR_BAD_ARGUMENT', `hqq: ${name} cannot be ${text}`, { hint, details: { option: name, value } });
}

function checkCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= 10_000) return;
  throw badOption(`solver.${name}`, value, `Use ${least} to 10000.`);
}

function proximal(options: ProximalOptions, defaults: { iterations: number; kappa: number }): Required<ProximalOptions> {
  const { iterations = defaults.iterations, norm = 0.7, beta = 10, kappa = defaults.kappa } = options;
  checkCount('iterations', iterations, 1);
  if (!(norm > 0 && norm <= 1)) throw badOption('solver.norm', norm, 'Use a number above 0 and at most 1.');
  if (!(beta > 0 && beta < Number.POSITIVE_INFINITY)) throw badOption('solver.beta', beta, 'Use a positive number.');
  if (!(kappa >= 1 && kappa < Number.POSITIVE_INFINITY)) throw badOption('solver.kappa', kappa, 'Use 1 or more.');
  return { iterations, norm, beta, kappa };
}

/** As the library's v2 asserts: more than one step, growing beta, a norm of at least 0.1. */
function proximalV2(options: ProximalV2Options, slow: boolean): SolverSettings {
  const base = proximal(options, { iterations: slow ? 100 : 20, kappa: 1.01 });
  const { tolerance = 0, earlyStop = !slow, scaleSearch = false } = options;
  checkCount('iterations', base.iterations, 2);
  if (!(base.kappa > 1)) throw badOption('solver.kappa', base.kappa, 'Use a number above 1: this solver always lets beta grow.');
  if (!(tolerance >= 0 && tolerance < Number.POSITIVE_INFINITY)) throw badOption('solver.tolerance', tolerance, 'Use 0 or more.');
  return { name: 'proximal-v2', ...base, norm: Math.max(base.norm, 0.1), tolerance, earlyStop, scaleSearch };
}

/** Fills in defaults and checks. `kappa` is the default of `hqq`. Throws ERR_BAD_ARGUMENT. */
export function solverSettings(solver: HqqSolver, kappa: number): SolverSettings {
  const options = (typeof solver === 'string' ? { name: solver } : solver) as Exclude<HqqSolver, string>;
  switch (options.name) {
    case 'hqq':
      return { name: 'hqq', ...proximal(options, { iterations: 20, kappa }) };
    case 'proximal-v2':
    case 'proximal-slow':
      return proximalV2(options, options.name === 'proximal-slow');
    case 'least-squares': {
      const { alternations = 8 } = options;
      checkCount('alternations', alternations, 1);
      return { name: 'least-squares', alternations };
    }
    default:
      throw badOption('solver', solver, `Use ${NAMES.join(', ')}, or an object with one of them as \`name\`.`);
  }
}

/** The settings as data, for provenance. */
export function solverRecord(solver: SolverSettings): JsonObject {
  return { ...solver };
}

// Which solver finds the grid, and with what constants.

import { checkOptionNames, type JsonObject, LowbitError } from '@lowbit/core';

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

/** Of the solver. */
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

/** ERR_BAD_ARGUMENT for an option of hqq(). */
export function badOption(name: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `hqq: ${name} cannot be ${valueText(value)}`, { hint, details: { option: name, value } });
}

/** A value in a message. */
export function valueText(value: unknown): string {
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}

export function checkFlag(name: string, value: unknown): void {
  if (typeof value !== 'boolean') throw badOption(name, value, 'Use true or false.');
}

/** Throws unless `value` is a number (no text that looks like one) and `fits` holds. */
function checkNumber(name: string, value: unknown, fits: (value: number) => boolean, hint: string): void {
  if (typeof value !== 'number' || !fits(value)) throw badOption(`solver.${name}`, value, hint);
}

const PROXIMAL = ['iterations', 'norm', 'beta', 'kappa'] as const;
const PROXIMAL_V2 = [...PROXIMAL, 'tolerance', 'earlyStop', 'scaleSearch'] as const;
/** Options of each solver, its name apart. */
const SOLVER_OPTIONS: Readonly<Record<SolverName, readonly string[]>> = {
  hqq: PROXIMAL satisfies readonly (keyof ProximalOptions)[],
  'proximal-v2': PROXIMAL_V2 satisfies readonly (keyof ProximalV2Options)[],
  'proximal-slow': PROXIMAL_V2,
  'least-squares': ['alternations'] satisfies readonly (keyof LeastSquaresOptions)[],
};

function checkCount(name: string, value: number, least: number): void {
  if (Number.isInteger(value) && value >= least && value <= 10_000) return;
  throw badOption(`solver.${name}`, value, `Use ${least} to 10000.`);
}

function proximal(options: ProximalOptions, defaults: { iterations: number; kappa: number }): Required<ProximalOptions> {
  const { iterations = defaults.iterations, norm = 0.7, beta = 10, kappa = defaults.kappa } = options;
  checkCount('iterations', iterations, 1);
  checkNumber('norm', norm, (p) => p > 0 && p <= 1, 'Use a number above 0 and at most 1.');
  checkNumber('beta', beta, (b) => b > 0 && Number.isFinite(b), 'Use a positive number.');
  checkNumber('kappa', kappa, (k) => k >= 1 && Number.isFinite(k), 'Use 1 or more.');
  return { iterations, norm, beta, kappa };
}

/** As the library's v2 asserts: more than one step, growing beta, a norm of at least 0.1. */
function proximalV2(options: ProximalV2Options, slow: boolean): SolverSettings {
  const base = proximal(options, { iterations: slow ? 100 : 20, kappa: 1.01 });
  const { tolerance = 0, earlyStop = !slow, scaleSearch = false } = options;
  checkCount('iterations', base.iterations, 2);
  if (!(base.kappa > 1)) throw badOption('solver.kappa', base.kappa, 'Use a number above 1: this solver always lets beta grow.');
  checkNumber('tolerance', tolerance, (t) => t >= 0 && Number.isFinite(t), 'Use 0 or more.');
  checkFlag('solver.earlyStop', earlyStop);
  checkFlag('solver.scaleSearch', scaleSearch);
  return { name: 'proximal-v2', ...base, norm: Math.max(base.norm, 0.1), tolerance, earlyStop, scaleSearch };
}

/** Fills in defaults and checks. `kappa` is the default of `hqq`. Throws ERR_BAD_ARGUMENT. */
export function solverSettings(solver: HqqSolver, kappa: number): SolverSettings {
  const options = (typeof solver === 'string' ? { name: solver } : solver) as Exclude<HqqSolver, string>;
  const name: unknown = options?.name;
  if (typeof name !== 'string' || !Object.hasOwn(SOLVER_OPTIONS, name)) {
    throw badOption('solver', solver, `Use ${Object.keys(SOLVER_OPTIONS).join(', ')}, or an object with one of them as \`name\`.`);
  }
  checkOptionNames('hqq', options, ['name', ...SOLVER_OPTIONS[name as SolverName]], 'solver.');
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
  }
}

/** The settings as data, for provenance. */
export function solverRecord(solver: SolverSettings): JsonObject {
  return { ...solver };
}

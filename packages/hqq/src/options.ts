// The settings of HQQ and what they mean for the stored format.

import { type Affine, type DType, type JsonObject, LowbitError, type Matrix } from '@lowbit/core';

/** Bits per code that HQQ knows. 1.58 means three levels. */
export type HqqBits = 8 | 6 | 5 | 4 | 3 | 2 | 1.58 | 1;

export interface HqqOptions {
  /** Default 4. */
  readonly bits?: HqqBits;
  /** Elements that share a scale and a zero; `null` makes one group of each row (axis 1) or column (axis 0). Default 64. */
  readonly groupSize?: number | null;
  /** 1: groups run along the rows (default; what serving kernels take). 0: groups run across rows (often better at 3 bits and fewer). */
  readonly axis?: 0 | 1;
  /** Run the half-quadratic solver (default) or keep the min-max grid. */
  readonly optimize?: boolean;
  /** Round the solver's starting zero to an integer. Default: only at 4 bits, as the Python library does. */
  readonly roundZero?: boolean;
  readonly solver?: HqqSolverOptions;
}

/** Constants of the half-quadratic solver; the defaults are those of hqq 0.2.8. */
export interface HqqSolverOptions {
  /** Most steps; default 20. */
  readonly iterations?: number;
  /** The norm p of the objective ||W - (q - z) s||_p, 0 < p <= 1; default 0.7. */
  readonly norm?: number;
  /** Initial weight of the quadratic penalty; default 10. */
  readonly beta?: number;
  /** Growth of beta per step. Default 1: releases 0.2.7 to 0.2.8.post1 never apply the 1.01 that others do. */
  readonly kappa?: number;
}

export interface Settings {
  readonly bits: HqqBits;
  readonly groupSize: number | null;
  readonly axis: 0 | 1;
  readonly optimize: boolean;
  readonly roundZero: boolean;
  readonly solver: Required<HqqSolverOptions>;
}

interface Width {
  readonly levels: number;
  readonly packing: string;
}

const WIDTHS: ReadonlyMap<number, Width> = new Map([
  [8, { levels: 256, packing: '8bit_u8' }],
  [6, { levels: 64, packing: '8bit_u8' }],
  [5, { levels: 32, packing: '8bit_u8' }],
  [4, { levels: 16, packing: '4bit_u8' }],
  [3, { levels: 8, packing: '3bit_32' }],
  [2, { levels: 4, packing: '2bit_u8' }],
  [1.58, { levels: 3, packing: '2bit_u8' }],
  [1, { levels: 2, packing: '1bit_u8' }],
]);

function badOption(name: string, value: unknown, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `hqq: ${name} cannot be ${String(value)}`, { hint, details: { option: name, value } });
}

/** Fills in defaults and checks. Throws ERR_BAD_ARGUMENT. */
export function settings(options: HqqOptions): Settings {
  const { bits = 4, groupSize = 64, axis = 1, optimize = true, roundZero = bits === 4 } = options;
  const { iterations = 20, norm = 0.7, beta = 10, kappa = 1 } = options.solver ?? {};
  if (!WIDTHS.has(bits)) throw badOption('bits', bits, `Use one of ${[...WIDTHS.keys()].join(', ')}.`);
  if (groupSize !== null && (!Number.isInteger(groupSize) || groupSize < 1)) {
    throw badOption('groupSize', groupSize, 'Use a positive integer such as 64, or null for whole rows or columns.');
  }
  if (axis !== 0 && axis !== 1) throw badOption('axis', axis, 'Use 1 (groups along the rows) or 0.');
  if (!Number.isInteger(iterations) || iterations < 1 || iterations > 10_000)
    throw badOption('solver.iterations', iterations, 'Use 1 to 10000.');
  if (!(norm > 0 && norm <= 1)) throw badOption('solver.norm', norm, 'Use a number above 0 and at most 1.');
  if (!(beta > 0 && beta < Number.POSITIVE_INFINITY)) throw badOption('solver.beta', beta, 'Use a positive number.');
  if (!(kappa >= 1 && kappa < Number.POSITIVE_INFINITY)) throw badOption('solver.kappa', kappa, 'Use 1 or more.');
  return { bits, groupSize, axis, optimize, roundZero, solver: { iterations, norm, beta, kappa } };
}

/** The settings under the names of Python's `weight_quant_params`: what layouts write into config.json. */
export function weightQuantParams(s: Settings): JsonObject {
  return {
    nbits: s.bits,
    channel_wise: true,
    group_size: s.groupSize,
    optimize: s.optimize,
    round_zero: s.roundZero,
    axis: s.axis,
    view_as_float: false,
  };
}

/** The affine format of a weight of that shape. Throws ERR_UNSUPPORTED_FORMAT if groups do not divide it. */
export function hqqFormat(s: Settings, shape: Matrix, metaDtype: DType): Affine {
  const { levels, packing } = WIDTHS.get(s.bits)!;
  const [out, inp] = shape;
  const group = s.groupSize ?? (s.axis === 1 ? inp : out);
  if ((out * inp) % group !== 0) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `hqq: groups of ${group} do not divide a [${out}, ${inp}] weight of ${out * inp} elements`,
      {
        hint: 'Choose a group size that divides out * in, or keep this layer with a rule.',
        details: { shape, groupSize: group },
      },
    );
  }
  return { kind: 'affine', levels, group, axis: s.axis, scale: metaDtype, zero: metaDtype, packing };
}

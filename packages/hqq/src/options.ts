// The settings of HQQ and what they mean for the stored format.

import { type Affine, checkOptionNames, type DType, type JsonObject, LowbitError, type Matrix, packing } from '@lowbit/core';
import { badOption, checkFlag, type HqqSolver, type SolverSettings, solverRecord, solverSettings } from './solver-options.ts';

/** Bits per code that HQQ knows. 1.58 means three levels. */
export type HqqBits = 8 | 6 | 5 | 4 | 3 | 2 | 1.58 | 1;

/** Of `hqq`. */
export interface HqqOptions {
  /** Default 4. */
  readonly bits?: HqqBits;
  /** Elements that share a scale and a zero; `null` makes one group of each row (axis 1) or column (axis 0). Default 64. */
  readonly groupSize?: number | null;
  /** 1: groups run along the rows (default; what serving kernels take). 0: groups run across rows (often better at 3 bits and fewer). */
  readonly axis?: 0 | 1;
  /** Run the solver (default) or keep the min-max grid. */
  readonly optimize?: boolean;
  /** Round the solver's starting zero to an integer. Default: only at 4 bits, as the Python library does. */
  readonly roundZero?: boolean;
  /** What finds the grid; default `hqq`, the exact original. */
  readonly solver?: HqqSolver;
  /**
   * Rules of which release of the Python library. `0.2.8` (default, 0.2.7 and later): a group whose range is at most 1e-4 has scale 1.
   * `0.1.8` (before 0.2.7): no such rule, so a constant group has scale 5e-5; and `hqq` lets beta grow.
   */
  readonly release?: '0.2.8' | '0.1.8';
  /** Store scales as 8-bit codes in groups of 128, as the library did until 0.2.1. Default false. */
  readonly quantScale?: boolean;
  /** Store zeros as 8-bit codes on one grid for the layer, or `groups`: in groups of 128, as the library did with `offload_meta`. Default false. */
  readonly quantZero?: boolean | 'groups';
  /**
   * False: one scale and one zero for the whole weight, on the min-max grid (`groupSize` and `optimize` then have no say, as in Python). Default true.
   */
  readonly channelWise?: boolean;
  /** Files show the packed codes as floats of the compute dtype: the same bytes, for tools that shard tensors of one dtype. Default false. */
  readonly viewAsFloat?: boolean;
}

export interface Settings {
  readonly bits: HqqBits;
  readonly groupSize: number | null;
  readonly axis: 0 | 1;
  readonly optimize: boolean;
  readonly roundZero: boolean;
  readonly solver: SolverSettings;
  readonly release: '0.2.8' | '0.1.8';
  readonly quantScale: boolean;
  readonly quantZero: boolean | 'groups';
  readonly channelWise: boolean;
  readonly viewAsFloat: boolean;
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

/** Numbers that share a grid where scales (or zeros) are quantized in groups. */
const META_GROUP = 128;

const OPTIONS: ReadonlySet<string> = new Set<keyof HqqOptions>([
  'bits',
  'groupSize',
  'axis',
  'optimize',
  'roundZero',
  'solver',
  'release',
  'quantScale',
  'quantZero',
  'channelWise',
  'viewAsFloat',
]);

/** Fills in defaults and checks; a misspelt option is an error, not a default. Throws ERR_BAD_ARGUMENT. */
export function settings(options: HqqOptions): Settings {
  checkOptionNames('hqq', options, OPTIONS);
  const { bits = 4, groupSize = 64, axis = 1, optimize = true, roundZero = bits === 4, solver = 'hqq' } = options;
  const { release = '0.2.8', quantScale = false, quantZero = false, channelWise = true, viewAsFloat = false } = options;
  if (!WIDTHS.has(bits)) throw badOption('bits', bits, `Use one of ${[...WIDTHS.keys()].join(', ')}.`);
  if (groupSize !== null && (!Number.isInteger(groupSize) || groupSize < 1)) {
    throw badOption('groupSize', groupSize, 'Use a positive integer such as 64, or null for whole rows or columns.');
  }
  if (axis !== 0 && axis !== 1) throw badOption('axis', axis, 'Use 1 (groups along the rows) or 0.');
  if (release !== '0.2.8' && release !== '0.1.8') throw badOption('release', release, "Use '0.2.8' or '0.1.8'.");
  for (const [name, value] of Object.entries({ optimize, roundZero, quantScale, channelWise, viewAsFloat })) checkFlag(name, value);
  if (typeof quantZero !== 'boolean' && quantZero !== 'groups') throw badOption('quantZero', quantZero, "Use true, false or 'groups'.");
  if (!channelWise && (bits === 3 || quantScale || quantZero)) {
    const hint = 'One grid for the whole weight takes no quantized scale or zero, and no 3 bits: hqq cannot read such layers back.';
    throw badOption('channelWise', channelWise, hint);
  }
  const solving = solverSettings(solver, release === '0.1.8' ? 1.01 : 1);
  return {
    ...{ bits, groupSize, axis, optimize: optimize && channelWise, roundZero, solver: solving },
    ...{ release, quantScale, quantZero, channelWise, viewAsFloat },
  };
}

/** The settings under the names of Python's `weight_quant_params`, which layouts write into config.json, and those it has no name for. */
export function weightQuantParams(s: Settings): JsonObject {
  return {
    nbits: s.bits,
    channel_wise: s.channelWise,
    group_size: s.groupSize,
    optimize: s.optimize,
    round_zero: s.roundZero,
    axis: s.axis,
    view_as_float: s.viewAsFloat,
    solver: s.optimize ? solverRecord(s.solver) : null,
    release: s.release,
  };
}

/** The affine format of a weight of that shape. Throws ERR_UNSUPPORTED_FORMAT if groups do not divide it. */
export function hqqFormat(s: Settings, shape: Matrix, metaDtype: DType): Affine {
  const { levels, packing: packed } = WIDTHS.get(s.bits)!;
  if (!s.channelWise) return tensorFormat(s, shape, metaDtype);
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
  const groups = (out * inp) / group;
  if ((s.quantScale || s.quantZero === 'groups') && groups % META_GROUP !== 0) {
    throw new LowbitError(
      'ERR_UNSUPPORTED_FORMAT',
      `hqq: ${groups} scales of a [${out}, ${inp}] weight do not divide into groups of ${META_GROUP}`,
      {
        hint: 'Choose another group size, store scales and zeros as they are, or keep this layer with a rule.',
        details: { shape, groupSize: group, groups },
      },
    );
  }
  const nested = (size: number | null): Affine => {
    return { kind: 'affine', levels: 256, group: size, axis: 0, scale: metaDtype, zero: metaDtype, packing: '8bit_u8' };
  };
  const scale = s.quantScale ? nested(META_GROUP) : metaDtype;
  const zero = s.quantZero ? nested(s.quantZero === 'groups' ? META_GROUP : null) : metaDtype;
  return { kind: 'affine', levels, group, axis: s.axis, scale, zero, packing: packed };
}

/**
 * One grid for the whole weight. Python packs the weight's own rows, which gives the same bytes as one column of everything, since `settings` refuses
 * the width whose rows are padded. Throws ERR_UNSUPPORTED_FORMAT.
 */
function tensorFormat(s: Settings, [out, inp]: Matrix, metaDtype: DType): Affine {
  const { levels, packing: packed } = WIDTHS.get(s.bits)!;
  packing(packed).shape(out, inp);
  return { kind: 'affine', levels, group: out * inp, axis: 0, scale: metaDtype, zero: metaDtype, packing: packed };
}

// HIGGS in another packing: the codes, scales and tables of a checkpoint, in FLUTE's tiles or in the portable form.

import { codecFor, fluteRows, isLowbitError, type Json, type JsonObject, LowbitError, quote, type StoredLinear } from '@lowbit/core';
import { type HiggsPacking, higgsFormat, higgsPacking, isHiggs, skipTest } from '@lowbit/layouts';
import type { Recoding } from '../plan/plan-recoding.ts';
import { higgsBlock } from './higgs-settings.ts';
import { isTemplate, tileOf } from './higgs-templates.ts';

/** What becomes of each linear of a HIGGS checkpoint with that config.json. */
export function recodeHiggs(
  config: JsonObject,
  wanted: HiggsPacking | 'auto',
): (site: { readonly path: string }, stored: StoredLinear) => Recoding {
  const skip = readable((config.quantization_config as JsonObject).modules_to_not_convert ?? null);
  const block = higgsBlock(config);
  return ({ path }, stored) => {
    const { format } = stored;
    if (!isHiggs(format)) throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(path)} is not stored in the layout higgs`);
    const { bits, dim, group, rotate, scale } = format;
    const packing = wanted !== 'auto' ? wanted : fitsTile32(stored) ? 32 : 'portable';
    // What a file says of a kernel and a GPU is true of the tiles that it was made for.
    const { template_id: template, num_sms: sms } = block.metadata(path) ?? {};
    const sameTile =
      isTemplate(bits, template) && tileOf(bits, template, () => new Error()) === packing && higgsPacking(format) === packing;
    return {
      use: {
        method: 'higgs',
        config: { modules_to_not_convert: skip, ...(sameTile && isCount(sms) ? { num_sms: sms, template_id: template } : {}) },
      },
      format: higgsFormat({ bits, p: dim, group, hadamard: rotate.block, dtype: scale, packing }),
    };
  };
}

/** The list without entries that cannot be followed: layers that stay as they are get entries of their own anyway. */
function readable(list: Json): readonly string[] | null {
  if (!Array.isArray(list)) return null;
  return list.filter((entry) => typeof entry === 'string' && entry !== '' && skipTest(entry, 'transformers 5') !== undefined);
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 1;
}

/** Throws ERR_UNSUPPORTED_FORMAT, naming the layers, if some do not fit into FLUTE's tiles. */
export function checkTiles(linears: ReadonlyMap<string, StoredLinear>, packing: HiggsPacking | 'auto'): void {
  if (packing === 'portable' || packing === 'auto') return;
  const misfits: { readonly path: string; readonly error: LowbitError }[] = [];
  for (const [path, { format, shape }] of linears) {
    if (!isHiggs(format)) continue;
    const { bits, dim, group, rotate, scale } = format;
    const tiled = higgsFormat({ bits, p: dim, group, hadamard: rotate.block, dtype: scale, packing });
    try {
      if (bits === 3 && packing === 64) {
        throw new LowbitError('ERR_UNSUPPORTED_FORMAT', 'FLUTE packs no 3-bit codes in tiles of 64');
      }
      codecFor(tiled).parts(tiled, shape);
    } catch (error) {
      if (!isLowbitError(error)) throw error;
      misfits.push({ path, error });
    }
  }
  const [first] = misfits;
  if (first === undefined) return;
  const others = misfits.length > 1 ? ` (and ${misfits.length - 1} more)` : '';
  const tiles = packing === 64 && misfits.every(({ path }) => fitsTile32(linears.get(path)!)) ? 'in tiles of 32 (`--flute 32`), or ' : '';
  throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${quote(first.path)}${others}: ${first.error.message}`, {
    hint: `Store them ${tiles}in the portable form (\`--flute portable\`, or \`auto\` for these layers alone), which takes any shape, but lowbit alone reads it.`,
    details: { ...first.error.details, path: first.path, layers: misfits.map(({ path }) => path) },
  });
}

function fitsTile32({ format, shape }: StoredLinear): boolean {
  if (!isHiggs(format)) return false;
  return shape[0] % fluteRows(format.bits, 32) === 0;
}

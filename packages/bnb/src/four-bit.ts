// NF4 and FP4: settings in, a quantizer out.

import { type Codebook, channelWeights, FP4_TABLE, NF4_TABLE, type Quantizer, writeFloat32 } from '@lowbit/core';
import { addErrors, noError, type ShortBlock, weightError } from './blocks.ts';
import { Chunks } from './chunks.ts';
import { blockCoder, searchingCoder } from './coder.ts';
import { NESTED_BLOCK, nestedScales } from './double-quant.ts';
import { type FourBitSettings, type Fp4Options, fourBitConfig, fp4Settings, type Nf4Options, nf4Settings } from './options.ts';
import { FP4_CELLS, FP4_CUDA_CELLS, NF4_CELLS } from './tables.ts';

/**
 * NormalFloat4 (Dettmers et al., 2023): in blocks of consecutive weights, each is the nearest of 16 quantiles of the normal distribution times the
 * largest magnitude of its block, w = table[q] * absmax. No calibration data.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_NON_FINITE, unless `allowNonFinite`.
 *
 * @example
 * const q = await quantize(weight, nf4({ doubleQuant: true }));
 */
export function nf4(options: Nf4Options = {}): Quantizer {
  return fourBit(nf4Settings(options));
}

/**
 * FP4: as NF4, with the 16 values of a 4-bit floating-point number (sign, two bits of exponent, one of mantissa) over 12.
 *
 * @throws ERR_BAD_ARGUMENT for unusable options. The quantizer itself throws ERR_NON_FINITE, unless `allowNonFinite`.
 */
export function fp4(options: Fp4Options = {}): Quantizer {
  return fourBit(fp4Settings(options));
}

/** Goes up when the same settings would give other bytes. */
const ALGORITHM_VERSION = 1;

function fourBit(s: FourBitSettings): Quantizer {
  const table = s.type === 'nf4' ? NF4_TABLE : FP4_TABLE;
  const cuda = s.thresholds === 'cuda';
  const cells = s.type === 'nf4' ? NF4_CELLS : cuda ? FP4_CUDA_CELLS : FP4_CELLS;
  const { nonFinite, scale, ...rest } = s; // a run that was refused may go on with allowNonFinite
  const bytesFollowFrom = scale === 'search' ? { ...rest, scale } : rest;
  const shortBlock: ShortBlock = cuda ? 'multiply' : 'divide';
  return {
    spec: 1,
    method: 'bitsandbytes',
    config: fourBitConfig(s),
    identity: JSON.stringify(['bitsandbytes', ALGORITHM_VERSION, bytesFollowFrom]),
    usesImportance: scale === 'search',
    format: () => fourBitFormat(s),
    async quantize(weight, format, out, context) {
      const size = (format as Codebook).group;
      const count = weight.shape[0] * weight.shape[1];
      const coder =
        scale === 'search'
          ? searchingCoder(
              cells,
              { name: weight.name, size },
              context.importance && channelWeights(context.importance, weight.shape),
              context,
            )
          : blockCoder(cells, { name: weight.name, size, shortBlock, nonFinite }, context);
      const { backend } = coder;
      const options = { unit: size, bytesPerWeight: 5, nonFinite, backed: backend !== undefined, held: backend?.has };
      const chunks = new Chunks(weight, options, context);
      try {
        if (s.doubleQuant) await backend?.hold(chunks.dtype, count);
        const nested = s.doubleQuant ? await nestedScales(chunks, coder, count, size) : undefined;
        await out.write('table', 0, f32Bytes(table));
        if (nested) {
          await out.write('scale.table', 0, f32Bytes(nested.map));
          await out.write('scale.scale', 0, f32Bytes(nested.absmax));
          await out.write('scale.offset', 0, f32Bytes(Float32Array.of(nested.offset)));
        }

        const total = noError();
        await chunks.each(
          async (piece) => {
            const first = piece.from / size;
            const coded = await coder.code(piece, nested);
            if (coded.nestedCodes) await out.write('scale.codes', first, coded.nestedCodes);
            else await out.write('scale', first, f32Bytes(coded.absmax));
            await out.write('codes', piece.from / 2, coded.packed);
            return coded;
          },
          (coded, { count }) => {
            addErrors(total, { ...coded, size, count });
            context.onWeights?.(count);
          },
        );
        return weightError(total);
      } finally {
        await backend?.release();
      }
    },
  };
}

/** Blocks of the flat weight, whatever its shape. */
function fourBitFormat({ type, blockSize, doubleQuant }: FourBitSettings): Codebook {
  const format: Codebook = { kind: 'codebook', bits: 4, dim: 1, group: blockSize, table: type, scale: 'f32', packing: 'bnb_nibble' };
  const nested: Codebook = { kind: 'codebook', bits: 8, dim: 1, group: NESTED_BLOCK, table: 'dynamic', scale: 'f32', packing: 'u8' };
  return doubleQuant ? { ...format, scale: nested, offset: true } : format;
}

function f32Bytes(values: Float32Array): Uint8Array {
  return writeFloat32('f32', values);
}

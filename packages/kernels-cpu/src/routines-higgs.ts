// Routines of @lowbit/higgs: packages/higgs/src/coder.ts and bands.ts say what goes in and comes out.

import { elements, hostTensor, isTilePacking, LowbitError, packing, toFloat32 } from '@lowbit/core';
import type { StoredFloat } from './binding.ts';
import { type NativeRoutine, runOf } from './routine-inputs.ts';

interface BlockParams {
  readonly block: number;
  readonly group: number;
  /** Of the scales. */
  readonly dtype: StoredFloat;
  readonly inp: number;
  readonly first: number;
  readonly blocks: number;
}

export const higgsRoutines: Readonly<Record<string, NativeRoutine>> = {
  'higgs.code': async ({ binding, machine }, [weights, points, norms, stored], params: BlockParams) => {
    const [data, dtype, count] = runOf(weights);
    const [size = 0, dim = 0] = points?.shape ?? [];
    const { block, group, inp, first, blocks } = params;
    // Every block has a weight, and a row of them is filled up by less than one.
    if (!(blocks <= count) || !(block <= 32768) || !(group >= 1) || (dim !== 1 && dim !== 2)) {
      throw new LowbitError(
        'ERR_BAD_ARGUMENT',
        `kernels-cpu: ${blocks} blocks of ${block} in groups of ${group}, points [${size}, ${dim}]`,
        {
          hint: 'Blocks have up to 32768 weights in whole groups, points one or two numbers.',
        },
      );
    }
    const codes = new Uint8Array((blocks * block) / dim);
    const scales = new Float32Array((blocks * block) / group);
    const sums = new Float64Array(3);
    const run = { inp, first, blocks, block, group, scale: params.dtype, dim, size } as const;
    const tables = [toFloat32(points!), toFloat32(norms!), toFloat32(stored!)] as const;
    await binding.higgsCode(machine(), data, dtype, run, ...tables, codes, scales, sums);
    return [hostTensor('u8', [codes.length], codes), hostTensor('f32', [scales.length], scales), hostTensor('f64', [3], sums)];
  },
  'higgs.pack': async ({ binding, machine }, [codes], { packing: name }: { readonly packing: string }) => {
    const [, bits, dim, tile] = /^flute([234])_p([12])_t(32|64)$/.exec(name) ?? [];
    const pack = packing(name);
    const [rows, columns = 0] = codes?.shape ?? [];
    if (!tile || !isTilePacking(pack) || rows !== pack.tileRows || columns < 1 || rows * columns > codes!.data.length) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: codes [${codes?.shape.join(', ')}] are no tile of the packing ${name}`, {
        hint: 'Pass the codes of one tile of a packing of FLUTE, [rows, columns].',
      });
    }
    const words = new Uint32Array((rows * columns * pack.bits) / 32);
    await binding.flutePack(
      machine(),
      Number(bits),
      Number(dim),
      Number(tile),
      elements({ dtype: 'u8', data: codes!.data }),
      columns,
      words,
    );
    return [hostTensor('u8', [words.byteLength], words)];
  },
};

// Routines of @lowbit/higgs: packages/higgs/src/coder.ts and bands.ts say what goes in and comes out.

import { isTilePacking, LowbitError, packing, toFloat32 } from '@lowbit/core';
import type { StoredFloat } from './binding.ts';
import { float, int } from './launches.ts';
import {
  bad,
  checkCounts,
  floatKind,
  type GpuRoutine,
  MOST,
  onDevice,
  part,
  sumColumns,
  tensorOf,
  threads,
  weightsOf,
} from './routine-work.ts';

/** `BlockRun` of packages/higgs/src/code-blocks.ts. */
interface BlockRun {
  readonly block: number;
  readonly group: number;
  /** Of the scales. */
  readonly dtype: StoredFloat;
  readonly inp: number;
  readonly first: number;
  readonly blocks: number;
  readonly unbiased?: boolean;
}

/** Weights of a Hadamard block: as many floats as the shared memory of every GPU holds beside a grid. */
const MOST_BLOCK = 8192;

export const HIGGS_ROUTINES: Readonly<Record<string, GpuRoutine>> = {
  'higgs.code': async (home, [weights, points, norms, stored], params: BlockRun) => {
    const count = weights?.shape[0] ?? 0;
    const { data, dtype } = weightsOf(home, weights, count, '[n]');
    const { block, group, dtype: scaleDtype, inp, first, blocks } = params;
    const kind = floatKind(scaleDtype);
    checkRun(params, count);
    const [size = 0, dim = 0] = points?.shape ?? [];
    if (!(size >= 1 && size <= 256) || (dim !== 1 && dim !== 2) || block < dim) throw bad(`points [${points?.shape.join(', ')}]`);
    const tables = [part(points, 'f32', size * dim), part(norms, 'f32', size), part(stored, 'f32', size * dim)];
    const farthest = toFloat32(stored!).reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    if (!Number.isFinite(farthest)) throw bad('points that are no grid');
    const perRow = Math.ceil(inp / block);
    const perBlock = block / group;
    const outputs = [(blocks * block) / dim, 4 * blocks * perBlock, 24, 24 * blocks];
    const [codes, scales, sums] = await onDevice(
      home,
      [data, ...tables],
      outputs,
      (at) => {
        const cut = [int(inp), int(block), int(perRow), int(first % perRow), int(dim), int(size)];
        const made = [int(kind), float(farthest), int(perBlock), at(4), at(5), at(7)];
        return [
          {
            kernel: 'higgs_code',
            grid: [blocks, 1, 1],
            block: 128,
            shared: 4 * block,
            arguments: [at(0), int(dtype), ...cut, at(1), at(2), at(3), ...made],
          },
          sumColumns(at(7), blocks, 3, 2, at(6)),
        ];
      },
      3,
    );
    return [tensorOf('u8', [codes!.byteLength], codes!), tensorOf('f32', [blocks * perBlock], scales!), tensorOf('f64', [3], sums!)];
  },
  'higgs.pack': async (home, [codes], { packing: name }: { readonly packing: string }) => {
    const [, bits, dim, tile] = (/^flute([234])_p([12])_t(32|64)$/.exec(name) ?? []).map(Number) as [number, number, number, number];
    const pack = packing(name);
    const [rows, columns = 0] = codes?.shape ?? [];
    if (
      !tile ||
      !isTilePacking(pack) ||
      rows !== pack.tileRows ||
      columns < 1 ||
      !(rows * columns <= MOST) ||
      (dim === 1 && columns % 2 === 1)
    ) {
      throw bad(
        `codes [${codes?.shape.join(', ')}] are no tile of the packing ${name}`,
        'Pass the codes of one tile of a packing of FLUTE, [rows, columns].',
      );
    }
    const words = (rows * columns * pack.bits) / 32;
    const [packed] = await onDevice(home, [part(codes, 'u8', rows * columns)], [4 * words], (at) => [
      threads('flute_pack', words, [at(0), int(columns), int(bits), int(dim), int(tile), int(words), at(1)], 256),
    ]);
    return [tensorOf('u8', [packed!.byteLength], packed!)];
  },
};

/** Throws ERR_LIMIT for blocks that do not fit a GPU's shared memory, ERR_UNSUPPORTED_FORMAT for scales of another kind, ERR_BAD_ARGUMENT for what is no run. */
function checkRun({ block, group, inp, first, blocks, unbiased }: BlockRun, count: number): void {
  checkCounts({ block, group, inp, first, blocks });
  if (unbiased) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', 'kernels-cuda: unbiased scales are not made on the GPU', {
      hint: 'Quantize without this backend.',
    });
  }
  const power = block >= 1 && Number.isInteger(Math.log2(block));
  if (power && block > MOST_BLOCK) {
    throw new LowbitError('ERR_LIMIT', `kernels-cuda: Hadamard blocks of ${block} weights, the limit on the GPU is ${MOST_BLOCK}`, {
      hint: 'Use a smaller hadamardSize, or quantize without this backend.',
      details: { block, limit: MOST_BLOCK },
    });
  }
  if (!power || group < 1 || block % group !== 0 || inp < 1 || blocks < 1 || blocks * block > MOST) {
    throw bad(`${blocks} blocks of ${block} from ${first} in groups of ${group}, rows of ${inp}`);
  }
  // What the blocks of the run have: rows of `inp`, whose last block is shorter.
  const perRow = Math.ceil(inp / block);
  const begin = (n: number): number => Math.floor(n / perRow) * inp + (n % perRow) * block;
  if (begin(first + blocks) - begin(first) !== count) throw bad(`${count} weights in ${blocks} blocks of ${block}, rows of ${inp}`);
}

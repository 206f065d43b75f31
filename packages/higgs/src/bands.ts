// Codes of rows that are packed together, collected run by run.
//
// Routine of a backend, for FLUTE's packings: `higgs.pack`, codes of a tile u8 [rows, columns] -> its bytes u8, run after run (`TilePacking.tileRuns`).

import { DTYPE_BYTES, hostTensor, type PackedRun, type PartWriter, type Routine } from '@lowbit/core';
import type { Cutting, Run } from './runs.ts';

/** Packs and writes every band as soon as its codes are all there. */
export class Bands {
  readonly #cut: Cutting;
  readonly #rows: number;
  readonly #out: PartWriter;
  readonly #routine: Routine | undefined;
  readonly #open = new Map<number, { readonly codes: Uint8Array; left: number }>();

  /**
   * @param rows of the whole weight
   * @param routine a backend's `higgs.pack`, where the packing is one of FLUTE's
   */
  constructor(cut: Cutting, rows: number, out: PartWriter, routine?: Routine) {
    this.#cut = cut;
    this.#rows = rows;
    this.#out = out;
    this.#routine = routine;
  }

  async add({ band: index, first, blocks }: Run, codes: Uint8Array): Promise<void> {
    const { columns, bands } = this.#cut;
    const { from, to } = bands[index]!;
    let band = this.#open.get(index);
    if (!band) {
      band = { codes: new Uint8Array((to - from) * columns), left: (to - from) * columns };
      this.#open.set(index, band);
    }
    band.codes.set(codes, first * (codes.length / blocks) - from * columns);
    band.left -= codes.length;
    if (band.left > 0) return;
    this.#open.delete(index);
    const pieces = joined(await this.#pack(band.codes, from, to), DTYPE_BYTES[this.#cut.packing.dtype]);
    for (const { at, data } of pieces) await this.#out.write('codes', at, data);
  }

  async #pack(codes: Uint8Array, from: number, to: number): Promise<PackedRun[]> {
    const { packing, columns } = this.#cut;
    const { tileRows } = packing;
    const size = tileRows * columns;
    const pieces: PackedRun[] = [];
    for (let i = 0; i < (to - from) / tileRows; i++) {
      const tile = codes.subarray(i * size, (i + 1) * size);
      const index = from / tileRows + i;
      pieces.push(...(this.#routine ? await this.#packBy(this.#routine, tile, index) : packing.packTile(tile, index, this.#rows, columns)));
    }
    return pieces;
  }

  async #packBy(routine: Routine, tile: Uint8Array, index: number): Promise<PackedRun[]> {
    const { packing, columns } = this.#cut;
    const [packed] = await routine([hostTensor('u8', [packing.tileRows, columns], tile)], { packing: packing.name });
    const width = DTYPE_BYTES[packing.dtype];
    let done = 0;
    return packing.tileRuns(index, this.#rows, columns).map(({ at, count }) => {
      const data = packed!.data.subarray(width * done, width * (done + count));
      done += count;
      return { at, data };
    });
  }
}

/** Runs that follow one another as one write, so that narrow rows are not written one by one; `width`: bytes of an element. */
function joined(pieces: readonly PackedRun[], width: number): PackedRun[] {
  const sorted = [...pieces].sort((a, b) => a.at - b.at);
  const result: PackedRun[] = [];
  for (let i = 0; i < sorted.length; ) {
    const start = sorted[i]!.at;
    let end = start;
    let next = i;
    while (next < sorted.length && sorted[next]!.at === end) end += sorted[next++]!.data.length / width;
    if (next === i + 1) result.push(sorted[i]!);
    else {
      const data = new Uint8Array((end - start) * width);
      for (const piece of sorted.slice(i, next)) data.set(piece.data, (piece.at - start) * width);
      result.push({ at: start, data });
    }
    i = next;
  }
  return result;
}

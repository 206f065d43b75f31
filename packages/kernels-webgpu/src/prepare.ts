// Brings a weight to the device, piece by piece of a few megabytes: what is packed here is handed over at once, so the host never has a second copy.

import {
  breather,
  codecFor,
  type FormatCodec,
  type FormatNumbers,
  type HostTensor,
  type QuantizedTensor,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import type { Machine } from './device.ts';
import type { HeldPiece, HeldWeight } from './launches.ts';
import { FLOAT_BYTES, pieceBytes, piecesOf, type WeightLayout, type WeightPiece } from './layout.ts';
import { packRows, padRows } from './pack.ts';
import { Storage } from './storage.ts';

/** Weights unpacked at a time. */
const PIECE = 1 << 20;
/** Bytes handed over before the device is waited for: it keeps them until then. */
const IN_FLIGHT = 32 << 20;

/** Memory for a weight, into `held` as it comes; what is returned rejects where there was none. */
export function takeWeight(
  machine: Machine,
  layout: WeightLayout,
  { bias }: { readonly bias: boolean },
  held: HeldPiece[],
): readonly Promise<void>[] {
  return piecesOf(layout, machine.limits).map((piece) => {
    const bytes = pieceBytes(piece, { bias });
    const { made, settled } = machine.claim('a weight', () => machine.storage(bytes, 'a weight'));
    held.push({ piece, place: { storage: new Storage(machine, made), offset: 0, bytes } });
    return settled;
  });
}

interface HoldOptions {
  readonly bias: HostTensor | undefined;
  readonly codecs: readonly FormatCodec[];
  readonly signal: AbortSignal | undefined;
}

/** Rejects with the signal's reason, or with what is wrong with the weight or the memory; then nothing is held. */
export async function holdWeight(
  machine: Machine,
  weight: QuantizedTensor,
  layout: WeightLayout,
  options: HoldOptions,
): Promise<HeldWeight> {
  const bias = options.bias !== undefined;
  const held: HeldPiece[] = [];
  try {
    await Promise.all(takeWeight(machine, layout, { bias }, held));
    const upload = new Upload(machine, weight, layout, options);
    for (const one of held) await upload.piece(one);
    machine.check();
    return { layout, bias, pieces: held };
  } catch (error) {
    for (const { place } of held) place.storage.release();
    throw await machine.explain(error);
  }
}

class Upload {
  readonly #machine: Machine;
  readonly #weight: QuantizedTensor;
  readonly #layout: WeightLayout;
  readonly #options: HoldOptions;
  readonly #codec: FormatCodec;
  readonly #numbers: FormatNumbers | undefined;
  readonly #breathe = breather();
  #inFlight = 0;

  constructor(machine: Machine, weight: QuantizedTensor, layout: WeightLayout, options: HoldOptions) {
    this.#machine = machine;
    this.#weight = weight;
    this.#layout = layout;
    this.#options = options;
    this.#codec = codecFor(weight.format, options.codecs);
    this.#numbers = layout.kind === 'dense' ? undefined : this.#codec.numbers(weight);
  }

  async piece({ piece, place }: HeldPiece): Promise<void> {
    const { inp, rowWords } = this.#layout;
    const { buffer } = place.storage;
    this.#writeNumbers(piece, (word, data) => this.#write(buffer, 4 * word, data));
    const rows = Math.max(1, Math.floor(PIECE / inp));
    for (let from = piece.from; from < piece.to; from += rows) {
      await this.#breathe();
      this.#options.signal?.throwIfAborted();
      const to = Math.min(piece.to, from + rows);
      this.#write(buffer, 4 * (from - piece.from) * rowWords, this.#codes(from, to));
      if (this.#inFlight < IN_FLIGHT) continue;
      this.#inFlight = 0;
      await this.#machine.device.queue.onSubmittedWorkDone();
    }
  }

  #write(buffer: HeldPiece['place']['storage']['buffer'], at: number, data: Uint8Array): void {
    this.#inFlight += data.byteLength;
    this.#machine.write(buffer, at, data);
  }

  #writeNumbers(piece: WeightPiece, write: (word: number, data: Uint8Array) => void): void {
    const { meta, kind, table: tableNumbers, fixedZero } = this.#layout;
    const { firstGroup, groups, from, to } = piece;
    if (this.#numbers) {
      const { scale, zero, table } = this.#numbers;
      const some = (values: Float32Array): Uint8Array => writeFloat32(meta, values.subarray(firstGroup, firstGroup + groups));
      write(piece.scale, some(scale));
      if (kind === 'grouped' && tableNumbers === 0 && fixedZero === 0) write(piece.zero, some(zero!));
      if (tableNumbers > 0) write(piece.table, bytesOf(table!));
    }
    const { bias } = this.#options;
    if (bias) write(piece.bias, bytesOf(toFloat32(bias).slice(from, to)));
  }

  /** Rows [from, to) as they lie. */
  #codes(from: number, to: number): Uint8Array {
    const { inp, kind, stored, dim, bits, rowWords } = this.#layout;
    if (kind === 'dense') {
      const { data } = this.#codec.dequantize(this.#weight, { dtype: stored, from, to });
      return padRows(plain(data), inp * FLOAT_BYTES[stored], 4 * rowWords);
    }
    const codes = plain(this.#codec.unpackRows(this.#weight, from, to).data);
    if (kind === 'int8') return padRows(codes, inp, 4 * rowWords);
    return bytesOf(packRows(codes, inp / dim, bits * dim, rowWords));
  }
}

function bytesOf(values: Float32Array | Uint32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Of any view, plain bytes: a Buffer is one, too. */
function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

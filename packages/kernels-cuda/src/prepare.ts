// Brings a weight to the device: canonical codes, piece by piece, packed there.

import {
  breather,
  codecFor,
  type FormatCodec,
  type FormatNumbers,
  type HostTensor,
  LowbitError,
  type QuantizedTensor,
  toFloat32,
  writeFloat32,
} from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle } from './binding.ts';
import { deviceError } from './errors.ts';
import { FLOAT_BYTES, quickTable, type Sections, sections, type WeightLayout, writeHeader } from './layout.ts';
import type { HeldWeight } from './linear.ts';

/** Weights unpacked at a time. */
const PIECE = 1 << 20;
const MOST_ROWS = 65535;

interface HoldOptions {
  readonly bias: HostTensor | undefined;
  readonly codecs: readonly FormatCodec[];
  readonly offload: boolean;
  readonly signal: AbortSignal | undefined;
}

/** Rejects with the signal's reason, or with what is wrong with the weight; then nothing is held. */
export async function holdWeight(
  home: { readonly binding: CudaBinding; readonly device: DeviceHandle },
  weight: QuantizedTensor,
  layout: WeightLayout,
  options: HoldOptions,
): Promise<HeldWeight> {
  const { binding, device } = home;
  const places = sections(layout, options);
  const taken: BufferHandle[] = [];
  const take = (bytes: number, where: 'device' | 'host'): BufferHandle => {
    const made = binding.createBuffer(device, bytes, where === 'host');
    taken.push(made);
    return made;
  };
  try {
    const buffer = take(places.deviceBytes + (options.bias ? 4 * layout.out : 0), 'device');
    const host = options.offload ? take(places.hostBytes, 'host') : undefined;
    const at = { device: binding.bufferAddress(buffer), host: host === undefined ? undefined : binding.bufferAddress(host) };
    binding.writeBuffer(buffer, 0, writeHeader(layout, places, at, { bias: options.bias !== undefined }));
    if (options.bias) binding.writeBuffer(buffer, places.bias, bytesOf(toFloat32(options.bias)));
    const codec = codecFor(weight.format, options.codecs);
    const found = layout.kind === 'dense' ? undefined : codec.numbers(weight);
    if (found) writeNumbers(binding, host ?? buffer, found, layout, places);
    await new Upload(home, buffer, weight, layout, places.codes, options).run();
    return { layout, buffer, host };
  } catch (error) {
    for (const one of taken) binding.freeBuffer(one);
    throw deviceError(error);
  }
}

function writeNumbers(
  binding: CudaBinding,
  to: BufferHandle,
  { scale, zero, table }: FormatNumbers,
  layout: WeightLayout,
  places: Sections,
): void {
  binding.writeBuffer(to, places.scale, writeFloat32(layout.meta, scale));
  if (layout.zeros > 0) binding.writeBuffer(to, places.zero, writeFloat32(layout.meta, zero!));
  if (layout.table > 0) binding.writeBuffer(to, places.table, bytesOf(table!));
  if (layout.quick === 'table') binding.writeBuffer(to, places.quick, quickTable(table!));
}

class Upload {
  readonly #home: { readonly binding: CudaBinding; readonly device: DeviceHandle };
  readonly #buffer: BufferHandle;
  readonly #weight: QuantizedTensor;
  readonly #layout: WeightLayout;
  readonly #at: number;
  readonly #options: HoldOptions;

  constructor(
    home: { readonly binding: CudaBinding; readonly device: DeviceHandle },
    buffer: BufferHandle,
    weight: QuantizedTensor,
    layout: WeightLayout,
    at: number,
    options: HoldOptions,
  ) {
    this.#home = home;
    this.#buffer = buffer;
    this.#weight = weight;
    this.#layout = layout;
    this.#at = at;
    this.#options = options;
  }

  async run(): Promise<void> {
    const { out, inp, kind, dim } = this.#layout;
    const { binding, device } = this.#home;
    const rows = Math.min(out, MOST_ROWS, Math.max(1, Math.floor(PIECE / inp)));
    const breathe = breather();
    const staging = kind === 'grouped' ? binding.createBuffer(device, (rows * inp) / dim, false) : undefined;
    try {
      for (let from = 0; from < out; from += rows) {
        await breathe();
        this.#options.signal?.throwIfAborted();
        const to = Math.min(out, from + rows);
        if (staging !== undefined) this.#grouped(staging, from, to);
        else if (kind === 'dense') this.#dense(from, to);
        else this.#int8(from, to);
      }
    } finally {
      if (staging !== undefined) binding.freeBuffer(staging);
    }
  }

  #dense(from: number, to: number): void {
    const { inp, stored } = this.#layout;
    const { data } = codecFor(this.#weight.format, this.#options.codecs).dequantize(this.#weight, { dtype: stored, from, to });
    this.#home.binding.writeBuffer(this.#buffer, this.#at + from * inp * FLOAT_BYTES[stored], plain(data));
  }

  #codes(from: number, to: number): Uint8Array {
    return plain(codecFor(this.#weight.format, this.#options.codecs).unpackRows(this.#weight, from, to).data);
  }

  #int8(from: number, to: number): void {
    const { inp, rowWords } = this.#layout;
    const codes = this.#codes(from, to);
    const stride = 4 * rowWords;
    let rows = codes;
    if (stride !== inp) {
      rows = new Uint8Array((to - from) * stride);
      for (let row = 0; row < to - from; row++) rows.set(codes.subarray(row * inp, (row + 1) * inp), row * stride);
    }
    this.#home.binding.writeBuffer(this.#buffer, this.#at + from * stride, rows);
  }

  #grouped(staging: BufferHandle, from: number, to: number): void {
    const { inp, dim, bits, rowWords } = this.#layout;
    const { binding, device } = this.#home;
    const codes = this.#codes(from, to);
    checkCodes(codes, bits);
    binding.writeBuffer(staging, 0, codes);
    binding.launch(
      device,
      {
        kernel: 'pack_codes',
        grid: [Math.ceil(rowWords / 128), to - from, 1],
        block: 128,
        arguments: [
          ...[{ buffer: 0 }, { int: inp / dim }, { int: bits }, { int: rowWords }],
          { buffer: 1, offset: this.#at + from * rowWords * 4 },
        ],
      },
      [staging, this.#buffer],
    );
  }
}

/** Throws ERR_TENSOR_MISMATCH for a code that has no place in its bits: a neighbour's would be lost, too. */
function checkCodes(codes: Uint8Array, bits: number): void {
  const bad = bits < 8 ? codes.findIndex((code) => code >= 2 ** bits) : -1;
  if (bad < 0) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${codes[bad]} does not fit ${bits} bits`, {
    hint: 'The tensor is damaged, or of another format than its header says.',
    details: { part: 'codes', code: codes[bad], bits },
  });
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Of any view, plain bytes: a Buffer is one, too. */
function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

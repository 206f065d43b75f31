// Brings a weight to the device: its parts as they are stored, which kernels there make rows of. Nothing here looks at single codes or scales.

import {
  type Affine,
  type Codebook,
  codecFor,
  type DType,
  type FormatCodec,
  type HostTensor,
  LowbitError,
  type QuantizedTensor,
  toFloat32,
} from '@lowbit/core';
import type { Argument, BufferHandle, CudaBinding, DeviceHandle } from './binding.ts';
import { deviceError } from './errors.ts';
import { int } from './launches.ts';
import { FLOAT_BYTES, planLayout, quickTable, type Sections, sections, type WeightLayout, writeHeader } from './layout.ts';
import type { HeldWeight } from './linear.ts';
import { packedCodes } from './packed.ts';
import type { HostPart } from './prefetch.ts';

/** Bytes between looks at a signal. */
const PIECE = 64 << 20;
/** Weights that a codec of a third party expands at a time. */
const EXPANDED = 1 << 20;
const MOST_ROWS = 65535;

interface HoldOptions {
  readonly bias?: HostTensor | undefined;
  readonly codecs: readonly FormatCodec[];
  readonly offload: boolean;
  /** All of it in memory of the host. */
  readonly whole?: boolean | undefined;
  readonly signal: AbortSignal | undefined;
}

interface Home {
  readonly binding: CudaBinding;
  readonly device: DeviceHandle;
}

/** Rejects with the signal's reason, or with what is wrong with the weight; then nothing is held. */
export async function holdWeight(home: Home, weight: QuantizedTensor, layout: WeightLayout, options: HoldOptions): Promise<HeldWeight> {
  const { binding, device } = home;
  const places = sections(layout, options);
  const taken: BufferHandle[] = [];
  const take = (bytes: number, where: 'device' | 'host'): BufferHandle => {
    const made = binding.createBuffer(device, bytes, where === 'host');
    taken.push(made);
    return made;
  };
  try {
    const bytes = places.deviceBytes + (options.bias ? 4 * layout.out : 0);
    const buffer = take(bytes, options.whole ? 'host' : 'device');
    const host = options.offload ? take(places.hostBytes, 'host') : undefined;
    const at = { device: binding.bufferAddress(buffer), host: host === undefined ? undefined : binding.bufferAddress(host) };
    binding.writeBuffer(buffer, 0, writeHeader(layout, places, at, { bias: options.bias !== undefined }));
    if (options.bias) binding.writeBuffer(buffer, places.bias, bytesOf(toFloat32(options.bias)));
    await new Bringing(home, weight, layout, places, options, { buffer, meta: host ?? buffer }).run();
    const onHost = host !== undefined || options.whole;
    return {
      layout,
      buffer,
      host,
      hostPart: onHost ? hostPart(layout, places, { ...at, buffer, host, bytes, bias: options.bias !== undefined }) : undefined,
    };
  } catch (error) {
    for (const one of taken) binding.freeBuffer(one);
    throw deviceError(error);
  }
}

/** What of a held weight is in memory of the host: scales, zeros and tables, or, where they are with the codes, all of it. */
function hostPart(
  layout: WeightLayout,
  places: Sections,
  held: {
    readonly device: bigint;
    readonly buffer: BufferHandle;
    readonly host: BufferHandle | undefined;
    readonly bytes: number;
    readonly bias: boolean;
  },
): HostPart {
  const { bias, host } = held;
  return {
    buffer: host ?? held.buffer,
    bytes: host === undefined ? held.bytes : places.hostBytes,
    header: (at) =>
      writeHeader(layout, places, host === undefined ? { device: at, host: undefined } : { device: held.device, host: at }, { bias }),
  };
}

interface Targets {
  readonly buffer: BufferHandle;
  /** Of scales, zeros and tables. */
  readonly meta: BufferHandle;
}

class Bringing {
  readonly #home: Home;
  readonly #weight: QuantizedTensor;
  readonly #layout: WeightLayout;
  readonly #places: Sections;
  readonly #options: HoldOptions;
  readonly #to: Targets;

  constructor(home: Home, weight: QuantizedTensor, layout: WeightLayout, places: Sections, options: HoldOptions, to: Targets) {
    this.#home = home;
    this.#weight = weight;
    this.#layout = layout;
    this.#places = places;
    this.#options = options;
    this.#to = to;
  }

  async run(): Promise<void> {
    const { level, kind } = this.#layout;
    if (level === 'dequant') return this.#expand();
    if (kind === 'dense') return this.#upload(this.#to.buffer, this.#places.codes, this.#part('weight'));
    await this.#numbers();
    await this.#codes();
  }

  #part(name: string): Uint8Array {
    return plain(this.#weight.parts[name]!.data);
  }

  async #upload(to: BufferHandle, at: number, bytes: Uint8Array): Promise<void> {
    for (let from = 0; from < bytes.byteLength; from += PIECE) {
      this.#options.signal?.throwIfAborted();
      await this.#home.binding.uploadBuffer(to, at + from, bytes.subarray(from, from + PIECE));
    }
  }

  async #numbers(): Promise<void> {
    const { format } = this.#weight;
    const { kind, groups, zeros, table, quick } = this.#layout;
    const { scale, zero, ...at } = this.#places;
    if (kind === 'int8') return this.#upload(this.#to.meta, scale, this.#part('scale'));
    await this.#stored('scale', (format as Affine | Codebook).scale, groups, scale);
    if (zeros > 0) await this.#stored('zero', (format as Affine).zero as Affine['scale'], zeros, zero);
    if (table === 0) return;
    const { binding } = this.#home;
    binding.writeBuffer(this.#to.meta, at.table, this.#part('table'));
    if (quick === 'table') binding.writeBuffer(this.#to.meta, at.quick, quickTable(toFloat32(this.#weight.parts.table!)));
  }

  /** Scales or zeros: as they are where they are kept as they are stored, else by a kernel: other dtypes, and those that are quantized themselves. */
  async #stored(name: string, stored: DType | Affine | Codebook, count: number, at: number): Promise<void> {
    const { meta } = this.#layout;
    if (stored === meta) return this.#upload(this.#to.meta, at, this.#part(name));
    const { binding, device } = this.#home;
    const tensor = nestedTensor(this.#weight, name, stored, count);
    const { codecs, signal } = this.#options;
    const held = await holdWeight(this.#home, tensor, planLayout(tensor.format, tensor.shape, codecs), { codecs, signal, offload: false });
    const offset = this.#weight.parts[`${name}.offset`];
    let added: BufferHandle | undefined;
    try {
      added = offset && binding.createBuffer(device, 4, false);
      if (added !== undefined) binding.writeBuffer(added, 0, plain(offset!.data));
      const buffers = [held.buffer, this.#to.meta, ...(added === undefined ? [] : [added])];
      const list: readonly Argument[] = [{ buffer: 0 }, int(count), added === undefined ? null : { buffer: 2 }, { buffer: 1, offset: at }];
      binding.launch(device, { kernel: 'nested_numbers', grid: [Math.ceil(count / 256), 1, 1], block: 256, arguments: list }, buffers);
    } finally {
      // The driver waits for what uses them.
      binding.freeBuffer(held.buffer);
      if (added !== undefined) binding.freeBuffer(added);
    }
  }

  /** The packed codes, and from them rows. */
  async #codes(): Promise<void> {
    const { out, rowWords, bits, kind, inp } = this.#layout;
    const { format, shape } = this.#weight;
    const bytes = this.#part('codes');
    if (kind === 'int8' && inp % 4 === 0) return this.#upload(this.#to.buffer, this.#places.codes, bytes);
    const { binding, device } = this.#home;
    const packed = packedCodes(format, shape);
    // Where a code can be too wide for its bits, whether one is.
    const checked = packed.bits > bits;
    const staged = this.#room(bytes.byteLength);
    let bad: BufferHandle | undefined;
    try {
      bad = checked ? binding.createBuffer(device, 4, false) : undefined;
      if (bad !== undefined) binding.writeBuffer(bad, 0, new Uint8Array(4));
      await this.#upload(staged, 0, bytes);
      const buffers = [staged, this.#to.buffer, ...(bad === undefined ? [] : [bad])];
      const tail = [{ buffer: 1, offset: this.#places.codes }, bad === undefined ? null : { buffer: 2 }];
      for (let from = 0; from < out; from += MOST_ROWS) {
        const grid = [Math.ceil(rowWords / 128), Math.min(MOST_ROWS, out - from), 1] as const;
        const list = [{ buffer: 0 }, ...packed.list, ...[packed.rowCodes, from, bits, rowWords].map(int), ...tail];
        binding.launch(device, { kernel: 'repack_codes', grid, block: 128, arguments: list }, buffers);
      }
      if (bad !== undefined) await checkCodes(binding, bad, bits);
    } finally {
      binding.freeBuffer(staged);
      if (bad !== undefined) binding.freeBuffer(bad);
    }
  }

  /** For codes on their way: where the device has no more room, memory of the host that kernels read over the bus. */
  #room(bytes: number): BufferHandle {
    const { binding, device } = this.#home;
    try {
      return binding.createBuffer(device, bytes, false);
    } catch (error) {
      if ((error as { readonly code?: string }).code !== 'OUT_OF_MEMORY') throw error;
      return binding.createBuffer(device, bytes, true);
    }
  }

  /** Numbers that a codec makes. */
  async #expand(): Promise<void> {
    const { out, inp, stored } = this.#layout;
    const rows = Math.max(1, Math.floor(EXPANDED / inp));
    const codec = codecFor(this.#weight.format, this.#options.codecs);
    for (let from = 0; from < out; from += rows) {
      const { data } = codec.dequantize(this.#weight, { dtype: stored, from, to: Math.min(out, from + rows) });
      await this.#upload(this.#to.buffer, this.#places.codes + from * inp * FLOAT_BYTES[stored], plain(data));
    }
  }
}

/** Scales or zeros as a weight [count, 1]: that is how a nested format sees them, and plain ones of another dtype can be seen so. */
function nestedTensor(weight: QuantizedTensor, name: string, stored: DType | Affine | Codebook, count: number): QuantizedTensor {
  const shape = [count, 1] as const;
  const { parts } = weight;
  if (typeof stored === 'string') {
    return { format: { kind: 'dense', dtype: stored }, shape, parts: { weight: { dtype: stored, shape, data: parts[name]!.data } } };
  }
  const prefix = `${name}.`;
  const own = Object.entries(parts).filter(([part]) => part.startsWith(prefix));
  return { format: stored, shape, parts: Object.fromEntries(own.map(([part, value]) => [part.slice(prefix.length), value])) };
}

/** Throws ERR_TENSOR_MISMATCH for a code that has no place in its bits: a neighbour's would be lost, too. */
async function checkCodes(binding: CudaBinding, bad: BufferHandle, bits: number): Promise<void> {
  const found = new Uint8Array(4);
  await binding.readBuffer(bad, 0, found);
  const code = new DataView(found.buffer).getInt32(0, true) - 1;
  if (code < 0) return;
  throw new LowbitError('ERR_TENSOR_MISMATCH', `part 'codes': code ${code} does not fit ${bits} bits`, {
    hint: 'The tensor is damaged, or of another format than its header says.',
    details: { part: 'codes', code, bits },
  });
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}

/** Of any view, plain bytes: a Buffer is one, too. */
function plain(data: Uint8Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

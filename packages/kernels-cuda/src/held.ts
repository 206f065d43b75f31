// Weights that stay on the GPU between the routines of one layer: each tile is brought once, whatever comes of it afterwards.

import type { HostTensor } from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle, StoredFloat } from './binding.ts';
import { bad, MOST, STORED_BYTES } from './routine-work.ts';

/** All weights of a layer, as packages/hqq/src/routines.ts says it. */
export interface LayerSize {
  readonly dtype: StoredFloat;
  readonly count: number;
}

/** Where a tile is, or will be when `bytes` have been brought. */
export interface HeldTile {
  readonly buffer: BufferHandle;
  readonly at: number;
  readonly bytes?: Uint8Array;
}

interface Room {
  readonly buffer: BufferHandle;
  readonly bytes: number;
}

interface HeldLayer extends LayerSize {
  readonly room: Room;
  /** Weights of the tiles that are there, by their first. */
  readonly brought: Map<number, number>;
}

/** Rooms that are kept for layers to come: two linears are quantized at a time. Taking and giving back memory waits for the whole device. */
const SPARE = 2;
const SPARE_BYTES = 256 << 20;
/** What a layer leaves of the device's memory: calls that are under way take room, too. */
const LEFT = 192 << 20;

export class HeldWeights {
  readonly #binding: CudaBinding;
  readonly #device: DeviceHandle;
  readonly #layers = new Map<number, HeldLayer>();
  readonly #spare: Room[] = [];
  #last = 0;
  #bytes = 0;

  constructor(binding: CudaBinding, device: DeviceHandle) {
    this.#binding = binding;
    this.#device = device;
  }

  /** Bytes of the device, with those for layers to come. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Room for a layer: its number. undefined where the device has none to spare. Throws ERR_BAD_ARGUMENT, and what the addon throws. */
  open({ dtype, count }: LayerSize): number | undefined {
    const width = STORED_BYTES[dtype];
    if (width === undefined || !Number.isSafeInteger(count) || count < 1) throw bad(`${count} weights of ${dtype} cannot be held`);
    const room = this.#take(count * width);
    if (!room) return undefined;
    this.#layers.set(++this.#last, { dtype, count, room, brought: new Map() });
    return this.#last;
  }

  /** A tile that begins with the weight `first`, and what to call when it has been brought. Throws ERR_BAD_ARGUMENT for one that cannot be there. */
  tile(layer: number, first: number, weights: HostTensor | undefined): { readonly tile: HeldTile; brought(): void } {
    const held = this.#layers.get(layer);
    if (!held || !weights) throw bad(`no layer ${layer} is held`);
    const { dtype, shape, data } = weights;
    const count = shape.reduce((product, length) => product * (Number.isInteger(length) && length >= 0 ? length : Number.NaN), 1);
    if (!(count <= MOST)) throw bad(`a tile cannot be [${shape.join(', ')}]`, `It has up to ${MOST} weights; a layer may have more.`);
    if (dtype !== held.dtype || !Number.isSafeInteger(first) || first < 0 || first + count > held.count) {
      throw bad(`${dtype} [${shape.join(', ')}] from weight ${first} of ${held.count} of ${held.dtype}`);
    }
    const width = STORED_BYTES[held.dtype];
    const comes = data.byteLength > 0;
    if (comes ? data.byteLength !== count * width : held.brought.get(first) !== count) {
      throw bad(`${data.byteLength} bytes for ${count} weights from ${first} on`, 'Bring a tile with its first call.');
    }
    const tile = { buffer: held.room.buffer, at: first * width, ...(comes ? { bytes: data } : {}) };
    return { tile, brought: () => held.brought.set(first, count) };
  }

  /** Nothing of the layer is under way any more. */
  close(layer: number): void {
    const held = this.#layers.get(layer);
    if (!held) return;
    this.#layers.delete(layer);
    if (held.room.bytes > SPARE_BYTES) {
      this.#give(held.room);
      return;
    }
    // The largest are kept: the smallest layers of a model come first, and what does for a large one does for them.
    this.#spare.push(held.room);
    this.#spare.sort((a, b) => b.bytes - a.bytes);
    for (const room of this.#spare.splice(SPARE)) this.#give(room);
  }

  /** Gives back what is kept for layers to come. */
  trim(): void {
    for (const room of this.#spare.splice(0)) this.#give(room);
  }

  [Symbol.dispose](): void {
    for (const layer of [...this.#layers.keys()]) this.close(layer);
    this.trim();
  }

  /** The smallest spare room that does, or a new one. */
  #take(bytes: number): Room | undefined {
    const fits = this.#spare.filter((room) => room.bytes >= bytes).sort((a, b) => a.bytes - b.bytes)[0];
    if (fits) {
      this.#spare.splice(this.#spare.indexOf(fits), 1);
      return fits;
    }
    const room = this.#make(bytes);
    if (room || this.#spare.length === 0) return room;
    this.trim();
    return this.#make(bytes);
  }

  #make(bytes: number): Room | undefined {
    try {
      const [free] = this.#binding.memoryInfo(this.#device);
      if (free - bytes < LEFT) return undefined;
      const buffer = this.#binding.createBuffer(this.#device, bytes, false);
      this.#bytes += bytes;
      return { buffer, bytes };
    } catch (error) {
      if ((error as { readonly code?: unknown }).code === 'OUT_OF_MEMORY') return undefined;
      throw error;
    }
  }

  #give({ buffer, bytes }: Room): void {
    this.#binding.freeBuffer(buffer);
    this.#bytes -= bytes;
  }
}

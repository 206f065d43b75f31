// Experts of one operation side by side in a buffer, so that a launch finds the one of each row by its number.

import type { Machine } from './device.ts';
import type { ExpertBank, HeldWeight } from './launches.ts';
import type { WebGpuLinear } from './linear.ts';
import { type Place, Storage } from './storage.ts';
import { kindName, kindOf } from './wgsl/weight.ts';

/** Bindings begin at multiples. */
const ALIGN = 256;

export type Bank = Omit<ExpertBank, 'slots'> & { readonly slots: Float32Array };

interface Move {
  readonly id: number;
  readonly piece: number;
  readonly from: Place;
  readonly to: Place;
}

/** Experts of one operation, with room for them side by side but not moved yet. */
export interface Gathering {
  /** Rejects where there was no memory; then nothing was moved, and the room is given back. */
  readonly settled: Promise<void>;
  /** Copies, moves the linears with it, and gives their old places back. */
  commit(): void;
}

/**
 * Weights of a program as it finds them, and its experts on their way to each other: one operation after another, so that no more than the experts of one
 * are in memory twice. What the program reads is held until this is disposed: linears may be disposed or moved by others meanwhile. A program that is not
 * compiled after all leaves linears with their numbers, some of them side by side already.
 */
export class ExpertMoves implements Disposable {
  readonly #machine: Machine;
  readonly #linears: readonly WebGpuLinear[];
  /** Of each linear; all places are held. */
  readonly #weights: HeldWeight[];
  readonly #banks = new Map<string, readonly Bank[]>();
  /** Of banks. */
  readonly #held: Storage[] = [];

  constructor(machine: Machine, linears: readonly WebGpuLinear[]) {
    this.#machine = machine;
    this.#linears = linears;
    this.#weights = linears.map(({ held }) => held);
    for (const { pieces } of this.#weights) for (const { place } of pieces) place.storage.hold();
  }

  get weights(): readonly HeldWeight[] {
    return this.#weights;
  }

  /** Of an operation whose experts were gathered. */
  banks(ids: readonly number[]): readonly Bank[] {
    return this.#banks.get(`${ids}`)!;
  }

  /** Makes room for the experts of an operation, where they do not lie side by side. Undefined: they do. */
  gather(ids: readonly number[]): Gathering | undefined {
    if (this.#banks.has(`${ids}`)) return undefined;
    for (const id of ids) this.#follow(id);
    const moves: Move[] = [];
    const made: Storage[] = [];
    const giveBack = (): void => {
      for (const storage of made.splice(0)) storage.release();
    };
    const orGiveBack = <T>(body: () => T): T => {
      try {
        return body();
      } catch (error) {
        giveBack();
        throw error;
      }
    };
    const { made: banks, settled } = orGiveBack(() => this.#machine.claim('experts of a layer', () => this.#banksOf(ids, moves, made)));
    const commit = (): void => {
      if (moves.length > 0) orGiveBack(() => this.#copy(moves));
      for (const { place } of banks) {
        place.storage.hold();
        this.#held.push(place.storage);
      }
      this.#banks.set(`${ids}`, banks);
      giveBack(); // to the linears, this and the program
    };
    if (moves.length === 0) {
      commit();
      return undefined;
    }
    const there = settled.catch((error: unknown) => {
      giveBack();
      throw error;
    });
    there.catch(() => {});
    return { settled: there, commit };
  }

  [Symbol.dispose](): void {
    for (const storage of this.#held.splice(0)) storage.release();
    for (const { pieces } of this.#weights.splice(0)) for (const { place } of pieces) place.storage.release();
  }

  /** Takes a linear from where another program has moved it meanwhile. */
  #follow(id: number): void {
    const { current } = this.#linears[id]!;
    if (current) this.#replace(id, current);
  }

  #replace(id: number, weight: HeldWeight): void {
    for (const { place } of weight.pieces) place.storage.hold();
    for (const { place } of this.#weights[id]!.pieces) place.storage.release();
    this.#weights[id] = weight;
  }

  #copy(moves: readonly Move[]): void {
    const encoder = this.#machine.device.createCommandEncoder();
    for (const { from, to } of moves) {
      encoder.copyBufferToBuffer(from.storage.buffer, from.offset, to.storage.buffer, to.offset, from.bytes);
    }
    this.#machine.submit([encoder.finish()]);
    for (const { id, piece: n, to } of moves) {
      this.#linears[id]!.move(n, to);
      const { pieces, ...rest } = this.#weights[id]!;
      this.#replace(id, { ...rest, pieces: pieces.map((one, i) => (i === n ? { piece: one.piece, place: to } : one)) });
    }
  }

  #banksOf(ids: readonly number[], moves: Move[], made: Storage[]): readonly Bank[] {
    const banks: Bank[] = [];
    const groups = new Map<string, number[]>();
    for (const [index, id] of ids.entries()) {
      const held = this.#weights[id]!;
      const { layout } = held;
      const key = `${kindName(kindOf(layout, held))} ${layout.inp} ${layout.features} ${layout.run} ${layout.threshold} ${layout.group} ${layout.out}`;
      groups.set(key, [...(groups.get(key) ?? []), index]);
    }
    for (const members of groups.values()) {
      for (const n of this.#weights[ids[members[0]!]!]!.pieces.keys()) banks.push(...this.#banksOfPiece(ids, members, n, moves, made));
    }
    return banks;
  }

  #banksOfPiece(ids: readonly number[], members: readonly number[], n: number, moves: Move[], made: Storage[]): readonly Bank[] {
    const first = this.#weights[ids[members[0]!]!]!;
    const { piece, place } = first.pieces[n]!;
    const { bytes } = place;
    const stride = Math.ceil(bytes / ALIGN) * ALIGN;
    const together = Math.max(1, Math.floor((this.#machine.limits.binding - bytes) / stride) + 1);
    const banks: Bank[] = [];
    for (let from = 0; from < members.length; from += together) {
      const some = members.slice(from, from + together);
      const size = stride * (some.length - 1) + bytes;
      const places = some.map((index) => this.#weights[ids[index]!]!.pieces[n]!.place);
      let { storage, offset } = places[0]!;
      if (!places.every((one, i) => one.storage === storage && one.offset === offset + i * stride)) {
        storage = new Storage(this.#machine, this.#machine.storage(size, 'experts of a layer'));
        offset = 0;
        made.push(storage);
        for (const [i, index] of some.entries()) {
          const to = { storage, offset: i * stride, bytes: places[i]!.bytes };
          moves.push({ id: ids[index]!, piece: n, from: places[i]!, to });
        }
      }
      const slots = new Float32Array(ids.length).fill(-1);
      for (const [i, index] of some.entries()) slots[index] = i;
      banks.push({ weight: first, piece, place: { storage, offset, bytes: size }, stride: stride / 4, slots });
    }
    return banks;
  }
}

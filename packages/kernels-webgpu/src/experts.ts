// Experts of one operation side by side in a buffer, so that a launch finds the one of each row by its number.

import type { Machine } from './device.ts';
import type { ExpertBank } from './launches.ts';
import type { WebGpuLinear } from './linear.ts';
import { type Place, Storage } from './storage.ts';
import { kindName, kindOf } from './wgsl/weight.ts';

/** Bindings begin at multiples. */
const ALIGN = 256;

export type Bank = Omit<ExpertBank, 'slots'> & { readonly slots: Float32Array };

interface Move {
  readonly linear: WebGpuLinear;
  readonly piece: number;
  readonly from: Place;
  readonly to: Place;
}

/**
 * Experts of a program on their way to each other. Until `commit` nothing happens to them: a program that is not compiled after all leaves every linear where
 * it was. What the program reads is held until this is disposed: linears may be disposed meanwhile, and programs be compiled side by side.
 */
export class ExpertMoves implements Disposable {
  readonly #machine: Machine;
  readonly #held: Storage[] = [];
  readonly #moves: Move[] = [];
  /** Where pieces go. */
  readonly #places = new Map<WebGpuLinear, Map<number, Place>>();

  constructor(machine: Machine, linears: readonly WebGpuLinear[]) {
    this.#machine = machine;
    const storages = new Set(linears.flatMap(({ held }) => held.pieces.map(({ place }) => place.storage)));
    for (const storage of storages) storage.hold();
    this.#held.push(...storages);
  }

  /** Banks for experts in their order: of their new places, where they do not lie side by side. Inside of `Machine.claim`. */
  banks(linears: readonly WebGpuLinear[]): readonly Bank[] {
    const banks: Bank[] = [];
    const groups = new Map<string, number[]>();
    for (const [index, { held }] of linears.entries()) {
      const { layout } = held;
      const key = `${kindName(kindOf(layout, held))} ${layout.inp} ${layout.features} ${layout.run} ${layout.threshold} ${layout.group} ${layout.out}`;
      groups.set(key, [...(groups.get(key) ?? []), index]);
    }
    for (const members of groups.values()) {
      for (const n of linears[members[0]!]!.held.pieces.keys()) banks.push(...this.#banksOfPiece(linears, members, n));
    }
    return banks;
  }

  /** Copies, and moves the linears with it. */
  commit(): void {
    if (this.#moves.length === 0) return;
    const encoder = this.#machine.device.createCommandEncoder();
    for (const { from, to } of this.#moves) {
      encoder.copyBufferToBuffer(from.storage.buffer, from.offset, to.storage.buffer, to.offset, from.bytes);
    }
    this.#machine.submit([encoder.finish()]);
    for (const { linear, piece, to } of this.#moves) linear.move(piece, to);
  }

  [Symbol.dispose](): void {
    for (const storage of this.#held.splice(0)) storage.release();
  }

  #banksOfPiece(linears: readonly WebGpuLinear[], members: readonly number[], n: number): readonly Bank[] {
    const first = linears[members[0]!]!.held;
    const { piece, place } = first.pieces[n]!;
    const { bytes } = place;
    const stride = Math.ceil(bytes / ALIGN) * ALIGN;
    const together = Math.max(1, Math.floor((this.#machine.limits.binding - bytes) / stride) + 1);
    const banks: Bank[] = [];
    for (let from = 0; from < members.length; from += together) {
      const some = members.slice(from, from + together);
      const size = stride * (some.length - 1) + bytes;
      const base = this.#sideBySide(
        some.map((index) => linears[index]!),
        n,
        { stride, size },
      );
      const slots = new Float32Array(linears.length).fill(-1);
      for (const [i, index] of some.entries()) slots[index] = i;
      banks.push({ weight: first, piece, place: { ...base, bytes: size }, stride: stride / 4, slots });
    }
    return banks;
  }

  /** Where piece n of all of them begins. */
  #sideBySide(linears: readonly WebGpuLinear[], n: number, { stride, size }: { readonly stride: number; readonly size: number }) {
    const places = linears.map((linear) => this.#places.get(linear)?.get(n) ?? linear.held.pieces[n]!.place);
    const { storage, offset } = places[0]!;
    if (places.every((place, i) => place.storage === storage && place.offset === offset + i * stride)) return { storage, offset };
    const made = new Storage(this.#machine, this.#machine.storage(size, 'experts of a layer'));
    this.#held.push(made);
    for (const [i, linear] of linears.entries()) {
      const from = linear.held.pieces[n]!.place;
      const to = { storage: made, offset: i * stride, bytes: from.bytes };
      this.#moves.push({ linear, piece: n, from, to });
      this.#places.set(linear, (this.#places.get(linear) ?? new Map<number, Place>()).set(n, to));
    }
    return { storage: made, offset: 0 };
  }
}

// Experts of one operation side by side in a buffer, so that a launch finds the one of each row by its number.

import type { Machine } from './device.ts';
import type { GpuEncoder } from './gpu.ts';
import type { ExpertBank } from './launches.ts';
import type { WebGpuLinear } from './linear.ts';
import { Storage } from './storage.ts';
import { kindName, kindOf } from './wgsl/weight.ts';

/** Bindings begin at multiples. */
const ALIGN = 256;

export type Bank = Omit<ExpertBank, 'slots'> & { readonly slots: Float32Array };

/**
 * Banks for experts in their order. Weights that do not lie side by side yet are moved: the linears have them at their new place from then on. Copies go
 * into `encoder`; `retired` gets what holds nothing any more when they are done.
 */
export function expertBanks(machine: Machine, linears: readonly WebGpuLinear[], encoder: GpuEncoder, retired: Storage[]): readonly Bank[] {
  const banks: Bank[] = [];
  const groups = new Map<string, number[]>();
  for (const [index, { held }] of linears.entries()) {
    const { layout } = held;
    const key = `${kindName(kindOf(layout, held))} ${layout.inp} ${layout.features} ${layout.run} ${layout.threshold} ${layout.group} ${layout.out}`;
    groups.set(key, [...(groups.get(key) ?? []), index]);
  }
  for (const members of groups.values()) {
    const { pieces } = linears[members[0]!]!.held;
    for (const n of pieces.keys()) banks.push(...banksOfPiece(machine, linears, members, n, encoder, retired));
  }
  return banks;
}

function banksOfPiece(
  machine: Machine,
  linears: readonly WebGpuLinear[],
  members: readonly number[],
  n: number,
  encoder: GpuEncoder,
  retired: Storage[],
): readonly Bank[] {
  const first = linears[members[0]!]!.held;
  const { bytes } = first.pieces[n]!.place;
  const stride = Math.ceil(bytes / ALIGN) * ALIGN;
  const together = Math.max(1, Math.floor((machine.limits.binding - bytes) / stride) + 1);
  const banks: Bank[] = [];
  for (let from = 0; from < members.length; from += together) {
    const some = members.slice(from, from + together);
    const size = stride * (some.length - 1) + bytes;
    const places = some.map((index) => linears[index]!.held.pieces[n]!.place);
    const [{ storage, offset }] = places as [(typeof places)[number]];
    let base = { storage, offset };
    if (!places.every((place, i) => place.storage === storage && place.offset === offset + i * stride)) {
      const made = new Storage(machine, machine.storage(size, 'experts of a layer'));
      for (const [i, index] of some.entries()) {
        const old = places[i]!;
        encoder.copyBufferToBuffer(old.storage.buffer, old.offset, made.buffer, i * stride, old.bytes);
        linears[index]!.move(n, { storage: made, offset: i * stride, bytes: old.bytes });
        made.hold();
        retired.push(old.storage);
      }
      retired.push(made); // its maker holds it no more: the linears do
      base = { storage: made, offset: 0 };
    }
    const slots = new Float32Array(linears.length).fill(-1);
    for (const [i, index] of some.entries()) slots[index] = i;
    const { piece } = first.pieces[n]!;
    banks.push({ weight: first, piece, place: { ...base, bytes: size }, stride: stride / 4, slots });
  }
  return banks;
}

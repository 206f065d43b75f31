// The largest numbers of rows, in two passes: of each stretch of a row, then of what those gave. Of equals the lower place comes first; of a row with NaN
// the first of them is in front and the others are nowhere.

import { type Kernel, kernel, type Variant } from './kernel.ts';
import { MEMBERS } from './subgroups.ts';

const SIZE = 64;
/** Numbers of a stretch. */
export const STRETCH = 2048;
/** Most numbers of a row that are chosen here. */
export const MOST_LARGEST = 256;

/** Brings the largest (order, place) of all invocations to the front: of equal orders, the lowest place. */
const FOLD = `
fn fold(order: u32, place: u32, lid: u32) {
  best_order[lid] = order;
  best_place[lid] = place;
  for (var half = ${SIZE / 2}u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lid < half) {
      let other = best_order[lid + half];
      let there = best_place[lid + half];
      if (other > best_order[lid] || (other == best_order[lid] && there < best_place[lid])) {
        best_order[lid] = other;
        best_place[lid] = there;
      }
    }
  }
  workgroupBarrier();
}`;

const FOLD_SUBGROUPS = `
fn fold(order: u32, place: u32, lid: u32) {
  workgroupBarrier();${MEMBERS}
  var most = subgroupMax(order);
  var lowest = subgroupMin(select(0xffffffffu, place, order == most));
  best_order[lid] = select(0u, most, rank == 0u);
  best_place[lid] = select(0xffffffffu, lowest, rank == 0u);
  workgroupBarrier();
  var mine = 0u;
  var there = 0xffffffffu;
  for (var i = 0u; i < ${SIZE}u; i += width) {
    let at = min(i + rank, ${SIZE - 1}u);
    let other = best_order[at];
    let lower = min(there, best_place[at]);
    there = select(select(there, lower, other == mine), best_place[at], other > mine);
    mine = max(mine, other);
  }
  most = subgroupMax(mine);
  lowest = subgroupMin(select(0xffffffffu, there, mine == most));
  workgroupBarrier();
  if (lid == 0u) {
    best_order[0] = most;
    best_place[0] = lowest;
  }
  workgroupBarrier();
}`;

/** Numbers as integers in the same order; 0 is nothing, and NaN is above all. -0 and 0 are equal. */
const ORDER = ({ subgroups }: Variant): string => `
fn order_of(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return 0xffffffffu; }
  if ((bits & 0x7fffffffu) == 0u) { return 0x80000000u; }
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}
var<workgroup> best_order: array<u32, ${SIZE}>;
var<workgroup> best_place: array<u32, ${SIZE}>;
// Whether (order, place) comes after what was chosen last, and may be chosen at all.
fn open(order: u32, place: u32, start: vec2<u32>, nth: u32) -> bool {
  if (nth == 0u) { return true; }
  if (order == 0xffffffffu) { return false; }
  return order < start.x || (order == start.x && place > start.y);
}
${subgroups ? FOLD_SUBGROUPS : FOLD}`;

/** Of each stretch of rows of x: kv gets [rows, stretches, count] pairs of bits and place (0xffffffff: nothing). Grid: (stretches, rows). */
export function stretchKernel(): Kernel {
  return kernel({
    name: 'largest of stretches',
    fields: { x: 'u32', width: 'u32', count: 'u32', stretches: 'u32', at: 'u32' },
    cache: true,
    size: SIZE,
    declarations: ORDER,
    body: `
  let begin = wx * ${STRETCH}u;
  let end = min(P.width, begin + ${STRETCH}u);
  let start = at(P.x) + wid.y * P.width;
  let out = P.at + (wid.y * P.stretches + wx) * P.count * 2u;
  var chosen = vec2<u32>();
  for (var nth = 0u; nth < P.count; nth++) {
    var order = 0u;
    var place = 0xffffffffu;
    for (var i = begin + lid; i < end; i += ${SIZE}u) {
      let mine = order_of(bitcast<u32>(arena[start + i]));
      if ((mine > order || place == 0xffffffffu) && open(mine, i, chosen, nth)) { order = mine; place = i; }
    }
    fold(order, place, lid);
    chosen = vec2<u32>(best_order[0], best_place[0]);
    if (lid == 0u) {
      let found = chosen.y != 0xffffffffu;
      kv[out + nth * 2u] = select(0xff800000u, bitcast<u32>(arena[start + min(chosen.y, P.width - 1u)]), found);
      kv[out + nth * 2u + 1u] = chosen.y;
    }
    workgroupBarrier();
  }`,
  });
}

/** Of the pairs of all stretches of a row: kv gets [rows, count] pairs at the front. Grid: (1, rows). */
export function mergeKernel(): Kernel {
  return kernel({
    name: 'largest of rows',
    fields: { count: 'u32', stretches: 'u32', at: 'u32' },
    cache: true,
    size: SIZE,
    declarations: ORDER,
    body: `
  let some = P.stretches * P.count;
  let start = P.at + wid.y * some * 2u;
  var chosen = vec2<u32>();
  for (var nth = 0u; nth < P.count; nth++) {
    var order = 0u;
    var place = 0xffffffffu;
    var bits = 0xff800000u;
    for (var i = lid; i < some; i += ${SIZE}u) {
      let there = kv[start + i * 2u + 1u];
      let mine = order_of(kv[start + i * 2u]);
      if (there != 0xffffffffu && (mine > order || (mine == order && there < place)) && open(mine, there, chosen, nth)) {
        order = mine;
        place = there;
        bits = kv[start + i * 2u];
      }
    }
    let mine = vec2<u32>(order, place);
    fold(order, place, lid);
    chosen = vec2<u32>(best_order[0], best_place[0]);
    let out = (wid.y * P.count + nth) * 2u;
    if (chosen.y == 0xffffffffu) {
      if (lid == 0u) { kv[out] = 0xff800000u; kv[out + 1u] = 0xffffffffu; }
    } else if (all(mine == chosen)) {
      kv[out] = bits;
      kv[out + 1u] = chosen.y;
    }
    workgroupBarrier();
  }`,
  });
}

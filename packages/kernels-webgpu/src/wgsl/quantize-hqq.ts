// Kernels of HQQ's routines: packages/hqq/src/grid.ts and solvers/proximal-step.ts, operation by operation, in the arithmetic of exact.ts. A step is five
// launches: what each weight adds is found by an invocation a weight, sums are taken in their order by an invocation a group. Small kernels, each of them: drivers
// that bring everything inline take minutes for one that does all.

import type { StoredFloat } from '../layout.ts';
import { words64 } from './exact.ts';
import type { Kernel } from './kernel.ts';
import { exactKernel, weightReader } from './quantize.ts';

export function minMaxKernel(dtype: StoredFloat): Kernel {
  return exactKernel(
    `exact min-max ${dtype}`,
    ['weights', 'size', 'top', 'round_zero', 'small_range', 'small', 'inverse', 'zero'],
    weightReader(dtype),
    `
  let at = n * P.size;
  var low = weight(at);
  var high = low;
  var finite = is_finite(low);
  for (var i = 1u; i < P.size; i++) {
    let w = weight(at + i);
    finite = finite && is_finite(w);
    if (above(low, w)) { low = w; }
    if (above(w, high)) { high = w; }
  }
  let range = f_sub(high, low);
  var s = f_mul(f_div(f_int(1u), range), f_int(P.top));
  if (P.small_range == 1u && range <= P.small) { s = f_int(1u); }
  if (s > 0x469c4000u) { s = 0x469c4000u; } // 2e4
  var z = f_mul(low ^ 0x80000000u, s);
  if (P.round_zero == 1u) {
    let huge = D(0u, 52, 0xc0000000u, 0u); // 1.5 * 2^52
    z = f_of(d_sub(d_add(d_of(z), huge), huge));
  }
  kv[P.inverse + n] = select(NAN, s, finite);
  kv[P.zero + n] = select(NAN, z, finite);`,
  );
}

/** x^y, as packages/hqq/src/solvers/power.ts has it. `reciprocal(k)` is 1 / k, k up to 23. */
export const POWER = `
fn power(x: D, y: D) -> D {
  let carry = i32((((x.hi >> 11u) & 0xfffffu) + 0x95f61u) >> 20u); // 1 from the root of 2 on
  let a = D(0u, -carry, x.hi, x.lo);
  let one = d_int(1);
  let s = d_div(d_sub(a, one), d_add(a, one));
  var series = D(0u, 0, 0u, 0u);
  var z = s;
  var whole = 0;
  // 12 terms of the logarithm, then 16 of the exponential: one loop, whose body is brought inline once.
  for (var i = 0u; i < 28u; i++) {
    let first = i < 12u;
    if (i == 12u) {
      let log2 = d_mul(y, d_add(d_int(x.e + carry), d_mul(d_mul(s, series), d_of64(TWO_LOG2E.x, TWO_LOG2E.y))));
      whole = d_floor(d_add(log2, D(0u, -1, 0x80000000u, 0u)));
      z = d_mul(d_sub(log2, d_int(whole)), d_of64(LN2.x, LN2.y));
      series = one;
    }
    let part = reciprocal(select(28u - i, 23u - 2u * i, first));
    var factor = part;
    var term = one;
    if (first) { factor = s; term = part; }
    series = d_add(d_mul(d_mul(series, z), factor), term);
  }
  series.e += whole;
  return series;
}
const TWO_LOG2E = vec2<u32>(${words64(2 * Math.LOG2E).join('u, ')}u);
const LN2 = vec2<u32>(${words64(Math.LN2).join('u, ')}u);`;

/** Words of a step's settings: the dead zone, 1 / beta (2), whether beta is the last. */
export const STEP_SETTINGS = 4;
/** Reciprocals of 0 (which is none) to 23, two words each. */
export const RECIPROCALS: Uint32Array = Uint32Array.from(Array.from({ length: 24 }, (_, k) => (k === 0 ? [0, 0] : words64(1 / k))).flat());

/** What all kernels of a step have: the step `k` of `groups` of `size` weights, and where things lie. */
const FIELDS = [
  ...[
    'k',
    'groups',
    'size',
    'top',
    'weights',
    'settings',
    'reciprocals',
    'inverse',
    'zero',
    'settled',
    'quiet',
    'norm_one',
    'power_high',
    'power_low',
  ],
  ...['zeros', 'still', 'errors', 'kinds', 'beyond', 'needs', 'codes', 'off', 'terms'],
];
/** The zero of a group before the step, and whether it had settled. */
const STATE = `
fn zero_of(g: u32) -> u32 {
  if (P.k == 0u) { return step[P.zero + g]; }
  return kv[P.zeros + (P.k - 1u) * P.groups + g];
}
fn still_of(g: u32) -> bool {
  if (P.k == 0u) { return step[P.settled + g] != 0u; }
  return kv[P.still + g] != 0u;
}`;

/**
 * The kernels of a step, in order: codes and distances of the weights; sums of the distances; distances shrunk, where shrinking does something; what the weights
 * then say of the zero; new zeros [steps, groups]. Beside those: errors f64 [steps, groups], kinds [steps, groups] (0 had settled, 1 moves, 2 stops) and beyond
 * [groups]: whether a weight is too large for what is computed here.
 */
export function proximalKernels(dtype: StoredFloat): readonly { readonly kernel: Kernel; readonly of: 'weights' | 'groups' }[] {
  const reader = weightReader(dtype);
  return [
    {
      of: 'weights',
      kernel: exactKernel(
        `exact hqq distances ${dtype}`,
        FIELDS,
        `${reader}${STATE}`,
        `
  let g = n / P.size;
  if (still_of(g)) { return; }
  let w = weight(n);
  let s = step[P.inverse + g];
  let z = zero_of(g);
  let scaled = f_mul(w, s);
  let q = f_int(f_code(f_add(scaled, z), P.top));
  kv[P.codes + n] = q;
  kv[P.off + n] = f_sub(w, f_div(f_sub(q, z), s));
  kv[P.terms + n] = f_sub(q, scaled);`,
      ),
    },
    {
      of: 'groups',
      kernel: exactKernel(
        `exact hqq sums ${dtype}`,
        FIELDS,
        `${reader}${STATE}`,
        `
  if (P.k == 0u) { kv[P.beyond + n] = 0u; }
  var error = D(0u, 0, 0u, 0u);
  var needs = 0u;
  if (!still_of(n)) {
    var largest = 0u;
    for (var i = n * P.size; i < (n + 1u) * P.size; i++) {
      if ((weight(i) & 0x7fffffffu) >= 0x71800000u) { kv[P.beyond + n] = 1u; } // 2^100
      let distance = kv[P.off + i] & 0x7fffffffu;
      error = d_add(error, d_of(distance));
      if (distance > P.quiet) { largest = max(largest, distance); }
    }
    // 1: nothing is beyond any dead zone; 2: something is, but not of this one; 3: of this one.
    needs = select(select(2u, 3u, largest > step[P.settings + P.k * ${STEP_SETTINGS}u]), 1u, largest == 0u);
  }
  kv[P.needs + n] = needs;
  let bits = d_to64(error);
  let to = P.errors + 2u * (P.k * P.groups + n);
  kv[to] = bits.y;
  kv[to + 1u] = bits.x;`,
      ),
    },
    {
      of: 'weights',
      kernel: exactKernel(
        'exact hqq shrink',
        FIELDS,
        `fn reciprocal(k: u32) -> D { return d_of64(step[P.reciprocals + 2u * k], step[P.reciprocals + 2u * k + 1u]); }${POWER}`,
        `
  if (kv[P.needs + n / P.size] != 3u) { return; }
  // sign(x) max(|x| - |x|^(p-1) / beta, 0); nothing within the dead zone.
  let setting = P.settings + P.k * ${STEP_SETTINGS}u;
  let off = kv[P.off + n];
  let size = off & 0x7fffffffu;
  var rest = 0u;
  if (size > step[setting]) {
    var cut = d_of64(step[setting + 1u], step[setting + 2u]);
    if (P.norm_one == 0u) { cut = d_of(f_of(d_mul(cut, d_of(f_of(power(d_of(size), d_of64(P.power_high, P.power_low))))))); }
    let left = f_of(d_sub(d_of(size), cut));
    if (above(left, 0u)) { rest = left | (off & 0x80000000u); }
  }
  kv[P.off + n] = rest;`,
      ),
    },
    {
      of: 'weights',
      kernel: exactKernel(
        `exact hqq terms ${dtype}`,
        FIELDS,
        reader,
        `
  let g = n / P.size;
  if (kv[P.needs + g] != 3u) { return; }
  kv[P.terms + n] = f_sub(kv[P.codes + n], f_mul(f_sub(weight(n), kv[P.off + n]), step[P.inverse + g]));`,
      ),
    },
    {
      of: 'groups',
      kernel: exactKernel(
        'exact hqq zeros',
        FIELDS,
        STATE,
        `
  let before = zero_of(n);
  var z = before;
  var kind = 0u;
  if (!still_of(n)) {
    var sum = D(0u, 0, 0u, 0u);
    for (var i = n * P.size; i < (n + 1u) * P.size; i++) { sum = d_add(sum, d_of(kv[P.terms + i])); }
    z = f_of(d_div(sum, d_int(i32(P.size))));
    let last = step[P.settings + P.k * ${STEP_SETTINGS}u + 3u] == 1u;
    kind = select(1u, 2u, same(z, before) && (last || kv[P.needs + n] == 1u));
  }
  kv[P.zeros + P.k * P.groups + n] = z;
  kv[P.kinds + P.k * P.groups + n] = kind;
  kv[P.still + n] = u32(kind != 1u);`,
      ),
    },
  ];
}

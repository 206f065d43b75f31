// Kernels of quantizers' routines, and those of NF4 and FP4: packages/bnb/src/blocks.ts and double-quant.ts, operation by operation, in the arithmetic of
// exact.ts. Sums are taken in the order of their elements, so blocks are the invocations.
//
// What comes in is in `step`, what goes out in `kv`; fields of `P` say at which words.

import type { StoredFloat } from '../layout.ts';
import { EXACT } from './exact.ts';
import { type FieldType, type Kernel, kernel } from './kernel.ts';

export const GROUPS = 64;

/** `weight(i)`: bits of weight i as f32. */
export function weightReader(dtype: StoredFloat): string {
  const half = '((step[P.weights + i / 2u] >> ((i & 1u) * 16u)) & 0xffffu)';
  const value = { f32: 'step[P.weights + i]', f16: `of_f16(${half})`, bf16: `${half} << 16u` }[dtype];
  return `fn weight(i: u32) -> u32 { return ${value}; }`;
}

/** A kernel with an invocation for each of `P.count`, number `n`. */
export function exactKernel(name: string, fields: readonly string[], declarations: string, body: string): Kernel {
  return kernel({
    name,
    fields: Object.fromEntries(['count', ...fields].map((field): [string, FieldType] => [field, 'u32'])),
    cache: true,
    size: GROUPS,
    declarations: `${EXACT}\n${declarations}`,
    body: `
  let n = wx * ${GROUPS}u + lid;
  if (n >= P.count) { return; }${body}`,
  });
}

const LEAST = '0x006ce3eeu'; // 1e-38

/** Of blocks of `size` of `all` weights. */
export function absmaxKernel(dtype: StoredFloat): Kernel {
  return exactKernel(
    `exact absmax ${dtype}`,
    ['weights', 'all', 'size', 'divide', 'absmax'],
    weightReader(dtype),
    `
  let begin = n * P.size;
  let end = min(P.all, begin + P.size);
  var largest = 0u; // NaN is above all numbers
  for (var i = begin; i < end; i++) { largest = max(largest, weight(i) & 0x7fffffffu); }
  if (P.divide == 1u && end - begin < P.size) { largest = max(largest, ${LEAST}); }
  kv[P.absmax + n] = select(largest, NAN, is_nan(largest));`,
  );
}

/** Codes of magnitudes from `first` of `blocks`, one a word, and the scales that a reader makes of them. */
export function nestedKernel(): Kernel {
  return exactKernel(
    'exact nested',
    ['absmax', 'first', 'blocks', 'offset', 'magnitudes', 'map', 'bounds', 'codes', 'scale'],
    '',
    `
  if (!is_finite(P.offset)) {
    kv[P.codes + n] = 0u;
    kv[P.scale + n] = NAN;
    return;
  }
  let group = (P.first + n) / 256u;
  let largest = step[P.magnitudes + group];
  let least = max(largest, ${LEAST});
  let distance = f_sub(kv[P.absmax + n], P.offset);
  var value = f_div(distance, least);
  // The last 256 divide if they are fewer.
  if ((group + 1u) * 256u <= P.blocks) { value = f_mul(distance, f_div(f_int(1u), least)); }
  var code = 0u;
  for (var half = 128u; half > 0u; half = half >> 1u) {
    if (above(value, step[P.bounds + code + half - 1u])) { code += half; }
  }
  kv[P.codes + n] = code;
  kv[P.scale + n] = f_add(f_mul(step[P.map + code], largest), P.offset);`,
  );
}

/** `cell(i, block)` of weight i, and of a 0 past the end. */
const CELL = `
fn cell(i: u32, block: u32) -> u32 {
  let finite = is_finite(kv[P.scale + block]);
  var u = 0u;
  if (i < P.all) {
    let largest = kv[P.absmax + block];
    if (P.divide == 1u && P.all - block * P.size < P.size) { u = f_div(weight(i), largest); }
    else { u = f_mul(weight(i), f_div(f_int(1u), select(max(largest, ${LEAST}), NAN, is_nan(largest)))); }
  }
  if (is_nan(u)) { return select(15u, 0u, finite); } // what scales to NaN is behind all numbers
  var found = 0u;
  for (var c = 0u; c < 15u; c++) { found += u32(above(u, step[P.cuts + c])); }
  return found;
}`;

/** Codes of 8 weights an invocation, the first in the high half of the first byte. */
export function fourBitKernel(dtype: StoredFloat): Kernel {
  return exactKernel(
    `exact four bits ${dtype}`,
    ['weights', 'all', 'size', 'divide', 'absmax', 'scale', 'cuts', 'codes', 'out'],
    `${weightReader(dtype)}\n${CELL}`,
    `
  var word = 0u;
  for (var k = 0u; k < 8u; k++) {
    let i = 8u * n + k;
    // An odd nibble belongs to the last block.
    if (i < P.all + (P.all & 1u)) { word |= step[P.codes + cell(i, min(i, P.all - 1u) / P.size)] << ((k ^ 1u) * 4u); }
  }
  kv[P.out + n] = word;`,
  );
}

/** Squared errors, squared weights and the largest error of each block, f64 [3, blocks]; 0 where the scale is not finite. */
export function blockErrorsKernel(dtype: StoredFloat): Kernel {
  return exactKernel(
    `exact errors ${dtype}`,
    ['weights', 'all', 'size', 'divide', 'absmax', 'scale', 'cuts', 'values', 'errors'],
    `${weightReader(dtype)}\n${CELL}
fn put(at: u32, d: D) { let bits = d_to64(d); kv[P.errors + 2u * at] = bits.y; kv[P.errors + 2u * at + 1u] = bits.x; }`,
    `
  let begin = n * P.size;
  let end = min(P.all, begin + P.size);
  let s = kv[P.scale + n];
  var errors = D(0u, 0, 0u, 0u);
  var weights = D(0u, 0, 0u, 0u);
  var most = D(0u, 0, 0u, 0u);
  if (is_finite(s)) {
    for (var i = begin; i < end; i += 2u) {
      var error = D(0u, 0, 0u, 0u);
      var square = D(0u, 0, 0u, 0u);
      for (var k = 0u; k < 2u; k++) {
        if (i + k >= end) { continue; }
        let x = d_of(weight(i + k));
        var e = d_sub(x, d_of(f_mul(step[P.values + cell(i + k, n)], s)));
        e.neg = 0u;
        error = d_add(error, d_mul(e, e));
        square = d_add(square, d_mul(x, x));
        if (d_sub(e, most).neg == 0u) { most = e; }
      }
      errors = d_add(errors, error);
      weights = d_add(weights, square);
    }
  }
  put(n, errors);
  put(P.count + n, weights);
  put(2u * P.count + n, most);`,
  );
}

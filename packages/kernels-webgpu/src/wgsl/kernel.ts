// A kernel is WGSL with bindings that all kernels share:
//
//   group 0  arena (all tensors of a step), step (what changes from step to step), constants (norms and tables of the program)
//   group 1  P (what this launch works on), w0, w1, ... (weights, 16 bytes at a time)
//   group 2  which (a share of the step, with a dynamic offset), kv (a cache, or results): only where `cache` is set
//
// A tensor is named by one number: domain * 2^29 + its offset in numbers of a row. `at` finds its first number.

import { FLOATS } from './floats.ts';

export type FieldType = 'u32' | 'f32';

export interface Kernel {
  readonly name: string;
  /** Of `P`, in order. */
  readonly fields: readonly (readonly [name: string, type: FieldType])[];
  /** How many weights are bound. */
  readonly weights: number;
  readonly cache: boolean;
  readonly code: string;
}

/** Places of what `step` begins with; sections are given as the word where they begin. `src/step-block.ts` writes it. */
export const STEP = {
  /** Rows of each domain. */
  rows: 0,
  /** First number of each domain in the arena. */
  base: 8,
  tokens: 16,
  shares: 17,
  source: 18,
  caches: 19,
  cacheCount: 20,
  /** Of tokens, outputs, (routed), encoder rows. */
  positions: 24,
  /** Sections of named rows begin here, then those of rotations. */
  sections: 32,
} as const;

/** Words of a share: where rows of each domain begin and how many there are, then its first position. */
export const SHARE_WORDS = 12;
/** Words of a cache as a share sees it: rows after the step, before it, and that it has room for. */
export const CACHE_WORDS = 4;
/** Workgroups along x before they go on along z. */
export const MOST_ALONG_X = 32768;

interface KernelParts {
  readonly name: string;
  readonly fields: Readonly<Record<string, FieldType>>;
  readonly weights?: number;
  readonly cache?: boolean;
  /** Workgroup size. */
  readonly size: number;
  readonly declarations?: string;
  /** Body of `main`; `wid`, `lid` and `wx` (the workgroup along x, gone on along z) are there. */
  readonly body: string;
}

export function kernel({ name, fields, weights = 0, cache = false, size, declarations = '', body }: KernelParts): Kernel {
  const list = Object.entries(fields);
  const code = `// ${name}
struct Params {
${list.map(([field, type]) => `  ${field}: ${type},`).join('\n')}
}
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> constants: array<f32>;
@group(1) @binding(0) var<uniform> P: Params;
${Array.from({ length: weights }, (_, i) => `@group(1) @binding(${i + 1}) var<storage, read> w${i}: array<vec4<u32>>;`).join('\n')}
${cache ? '@group(2) @binding(0) var<uniform> which: vec4<u32>;\n@group(2) @binding(1) var<storage, read_write> kv: array<u32>;' : ''}
fn rows_of(tensor: u32) -> u32 { return step[${STEP.rows}u + (tensor >> 29u)]; }
fn at(tensor: u32) -> u32 { return step[${STEP.base}u + (tensor >> 29u)] + (tensor & 0x1fffffffu) * rows_of(tensor); }
${FLOATS}
${declarations}
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * ${MOST_ALONG_X}u;
${body}
}
`;
  return { name, fields: list, weights, cache, code: code.replace(/\n{2,}/g, '\n') };
}

/** Sum and largest of one number of each of `size` invocations, the same for all; in uniform control flow. */
export function reductions(size: number): string {
  const fold = (join: string): string => `
  workgroupBarrier();
  reduced[lid] = value;
  for (var half = ${size / 2}u; half > 0u; half = half >> 1u) {
    workgroupBarrier();
    if (lid < half) { reduced[lid] = ${join}; }
  }
  workgroupBarrier();
  return reduced[0];`;
  return `
var<workgroup> reduced: array<f32, ${size}>;
fn sum_of_all(value: f32, lid: u32) -> f32 {${fold('reduced[lid] + reduced[lid + half]')}
}
fn largest_of_all(value: f32, lid: u32) -> f32 {${fold('max(reduced[lid], reduced[lid + half])')}
}`;
}

// A kernel is WGSL with bindings that all kernels share:
//
//   group 0  arena (all tensors of a step), step (what changes from step to step), constants (norms and tables of the program)
//   group 1  P (what this launch works on), w0, w1, ... (weights, 16 bytes at a time)
//   group 2  which (a share of the step, with a dynamic offset), kv (a cache, or results): only where `cache` is set
//
// What a device has beyond the core of WebGPU is a variant: launches do not depend on it, the text of a kernel may. Without any it is the core's.
//
// A tensor is named by one number: domain * 2^29 + its offset in numbers of a row. `at` finds its first number.

import { FLOATS } from './floats.ts';
import { subgroupReductions } from './subgroups.ts';

export type FieldType = 'u32' | 'f32';

/** What kernels may use beyond the core of WebGPU. */
export interface Variant {
  readonly subgroups: boolean;
  readonly f16: boolean;
}

/** The core. */
export const CORE: Variant = { subgroups: false, f16: false };

export interface Kernel {
  readonly name: string;
  /** Of `P`, in order. */
  readonly fields: readonly (readonly [name: string, type: FieldType])[];
  /** How many weights are bound. */
  readonly weights: number;
  readonly cache: boolean;
  code(variant?: Variant): string;
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
  readonly declarations?: Text;
  /** Body of `main`; `wid`, `lid` and `wx` (the workgroup along x, gone on along z) are there. */
  readonly body: Text;
}

/** The same for all variants, or not. */
type Text = string | ((variant: Variant) => string);

/** Uniformity of subgroups is not proven by all that compile WGSL: what these kernels do together stands outside of branches. */
const DIRECTIVES = { subgroups: 'enable subgroups;\ndiagnostic(off, subgroup_uniformity);\n', f16: 'enable f16;\n' } as const;

export function kernel({ name, fields, weights = 0, cache = false, size, declarations = '', body }: KernelParts): Kernel {
  const list = Object.entries(fields);
  const code = (variant: Variant = CORE): string => {
    const own = [declarations, body].map((text) => (typeof text === 'string' ? text : text(variant)));
    // A comment may name what its code does without.
    const uses = (word: RegExp): boolean => own.some((text) => word.test(text.replace(/\/\/.*/g, '')));
    const f16 = variant.f16 && uses(/\bf16\b/);
    const directives = `${f16 ? DIRECTIVES.f16 : ''}${variant.subgroups && uses(/\bsubgroup[A-Z]/) ? DIRECTIVES.subgroups : ''}`;
    return `// ${name}
${directives}struct Params {
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
${own[0]}
@compute @workgroup_size(${size})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
  let wx = wid.x + wid.z * ${MOST_ALONG_X}u;
${own[1]}
}
`.replace(/\n(\s*\n)+/g, '\n');
  };
  return { name, fields: list, weights, cache, code };
}

/** Sum and largest of one number of each of `size` invocations, the same for all; in uniform control flow. */
export function reductions(size: number, { subgroups }: Variant = CORE): string {
  if (subgroups) return subgroupReductions(size);
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

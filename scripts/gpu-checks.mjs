// @ts-check
// What the conformance kit does not run on a GPU: operations that run together in a step of few rows, attention that is split among blocks, numbers chosen on
// the GPU, weights as they are stored. Beside them the times of attention over long caches and of loading.
import { largestOfRows, referenceBackend, toFloat32 } from '@lowbit/core';
import { ProgramBuilder } from '@lowbit/models';
import { formatSamples, sampleWeight, seededTensor } from '@lowbit/testing';
import { median } from './gpu-common.mjs';

/** @typedef {{ readonly name: string, readonly ok: boolean, readonly detail: string }} Check */
/** @typedef {import('@lowbit/core').Backend} Backend */
/** @typedef {import('@lowbit/core').Format} Format */

/**
 * A decoder of Llama's shape.
 * @param {Format} format
 * @param {{ width: number, inner: number, heads: number, kvHeads: number, head: number, layers: number, vocabulary: number }} shape
 */
export function llamaShape(format, { width, inner, heads, kvHeads, head, layers, vocabulary }) {
  const b = new ProgramBuilder({ layers });
  /** @type {import('@lowbit/core').QuantizedTensor[]} */
  const weights = [];
  /** @type {(shape: readonly [number, number], use?: 'linear' | 'both') => number} */
  const weight = (shape, use = 'linear') => {
    weights.push(sampleWeight(format, shape, weights.length + 1));
    return b.addLinear(`w${weights.length}`, shape, { use });
  };
  const scale = b.addConstant(seededTensor(3, [width], 1));
  const rope = b.addRope({ kind: 'fixed', frequencies: Array.from({ length: head / 2 }, (_, i) => 5e5 ** ((-2 * i) / head)), scale: 1 });
  const table = weight([vocabulary, width], 'both');
  let x = b.embed(table);
  for (let layer = 0; layer < layers; layer++) {
    b.layer = layer;
    const h = b.norm(x, { kind: 'rms', eps: 1e-5, weight: scale });
    const q = b.rope(b.linear(h, weight([heads * head, width])), { heads, dim: head, style: 'half', rope });
    const k = b.rope(b.linear(h, weight([kvHeads * head, width])), { heads: kvHeads, dim: head, style: 'half', rope });
    const v = b.linear(h, weight([kvHeads * head, width]));
    const cache = b.addCache({ heads: kvHeads, keyDim: head, valueDim: head });
    const attended = b.attend(q, { k, v, cache, heads, kvHeads, keyDim: head, scale: head ** -0.5 });
    x = b.add(x, b.linear(attended, weight([width, heads * head])));
    const m = b.norm(x, { kind: 'rms', eps: 1e-5, weight: scale });
    const gated = b.gate(b.linear(m, weight([inner, width])), b.linear(m, weight([inner, width])), 'silu');
    x = b.add(x, b.linear(gated, weight([width, inner])));
  }
  b.layer = layers;
  b.output('logits', b.linear(b.select(x), table));
  return { program: b.build(), weights };
}

/** @type {(name: string, got: Float32Array | number[], expected: Float32Array | number[], tolerance: number) => Check} */
function close(name, got, expected, tolerance) {
  let [worst, largest] = [0, 1e-30];
  for (const [i, value] of [...expected].entries()) {
    largest = Math.max(largest, Math.abs(value));
    const off = Math.abs((got[i] ?? Number.NaN) - value);
    worst = off <= worst ? worst : Number.isNaN(off) ? Number.POSITIVE_INFINITY : off;
  }
  return { name, ok: worst <= tolerance * largest, detail: `off by ${(worst / largest).toExponential(1)} of the largest` };
}

/**
 * Logits of a prompt and of tokens after it, one and two at a time.
 * @param {Backend} backend
 * @param {ReturnType<typeof llamaShape>} decoder
 */
async function logitsOf(backend, { program, weights }) {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) {
    const one = weights[i];
    if (one) linears.push(await backend.prepare(one, { use }));
  }
  const executable = await backend.compile(program, linears, { contextLength: 64 });
  const id = executable.open();
  /** @type {number[]} */
  const logits = [];
  for (const count of [5, 1, 1, 2, 1, 1]) {
    const step = { id, tokens: Uint32Array.from({ length: count }, (_, i) => (7 * logits.length + i) % 32) };
    const { logits: rows } = await executable.step([step]);
    if (rows) logits.push(...toFloat32(rows));
  }
  executable[Symbol.dispose]();
  for (const linear of linears) linear[Symbol.dispose]();
  return logits;
}

/**
 * One query over so many keys: a program whose keys and values are inputs.
 * @param {number} heads @param {number} kvHeads @param {number} head
 */
function attention(heads, kvHeads, head) {
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  const kv = kvHeads * head;
  const x = b.input('x', { width: heads * head + 2 * kv });
  const part = (/** @type {number} */ offset, /** @type {number} */ width) => b.slice(x, { offset, width });
  const cache = b.addCache({ heads: kvHeads, keyDim: head, valueDim: head });
  const [k, v] = [part(heads * head, kv), part(heads * head + kv, kv)];
  b.output('out', b.attend(part(0, heads * head), { k, v, cache, heads, kvHeads, keyDim: head, scale: head ** -0.5 }));
  return { program: b.build(), width: heads * head + 2 * kv };
}

/**
 * The last row of so many, the one before it in the last step, too, and milliseconds of steps of one row after them.
 * @param {Backend} backend @param {ReturnType<typeof attention>} of @param {number} keys @param {number} steps
 */
async function attended(backend, { program, width }, keys, steps = 0) {
  const executable = await backend.compile(program, [], { contextLength: keys + steps + 1 });
  const id = executable.open();
  const chunk = 512;
  /** @type {Float32Array} */
  let out = new Float32Array();
  const run = async (/** @type {number} */ at, /** @type {number} */ count) => {
    const inputs = { x: seededTensor(at + 1, [count, width], 1) };
    const got = await executable.step([{ id, tokens: new Uint32Array(count), wanted: Uint32Array.of(count - 1), inputs }]);
    if (got.out) out = toFloat32(got.out);
  };
  for (let at = 0; at < keys - 1; at += chunk) await run(at, Math.min(chunk, keys - 1 - at));
  await run(keys - 1, 1);
  const last = out.slice(-width);
  const times = [];
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    await run(keys + i, 1);
    times.push(performance.now() - start);
  }
  executable[Symbol.dispose]();
  return { last, milliseconds: median(times) };
}

/**
 * Experts of a prompt: two products of so many experts, two for each token, whose router comes with the step.
 * @param {Format} format @param {number} experts @param {number} width
 */
function mixture(format, experts, width) {
  const b = new ProgramBuilder({ layers: 1 });
  /** @type {import('@lowbit/core').QuantizedTensor[]} */
  const weights = [];
  const list = (/** @type {readonly [number, number]} */ shape) =>
    Array.from({ length: experts }, (_, i) => {
      weights.push(sampleWeight(format, shape, weights.length + 1));
      return b.addLinear(`${i}.${shape}`, shape, { use: 'linear' });
    });
  b.layer = 0;
  const x = b.input('x', { width: width + experts });
  const router = b.slice(x, { offset: width, width: experts });
  const { ids, weights: shares } = b.route(router, { topK: 2, scoring: 'softmax', normalize: true });
  const inner = b.activate(b.expertLinear(b.slice(x, { offset: 0, width }), ids, list([2 * width, width])), 'silu');
  b.output('out', b.combine(b.expertLinear(inner, ids, list([width, 2 * width])), shares));
  return { program: b.build(), weights };
}

/** @type {(backend: Backend, of: ReturnType<typeof mixture>, x: import('@lowbit/core').HostTensor) => Promise<Float32Array>} */
async function mixed(backend, { program, weights }, x) {
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) {
    const one = weights[i];
    if (one) linears.push(await backend.prepare(one, { use }));
  }
  const executable = await backend.compile(program, linears, { contextLength: 1024 });
  const { out } = await executable.step([{ id: executable.open(), tokens: new Uint32Array(x.shape[0] ?? 0), inputs: { x } }]);
  const rows = out ? toFloat32(out).slice() : new Float32Array();
  executable[Symbol.dispose]();
  for (const linear of linears) linear[Symbol.dispose]();
  return rows;
}

/**
 * @param {Backend} backend
 * @param {{ readonly small: boolean, readonly formats: Readonly<Record<string, Format>> }} settings
 * @returns {Promise<readonly Check[]>}
 */
export async function checks(backend, { small, formats }) {
  /** @type {Check[]} */
  const found = [];
  const reference = await referenceBackend().open();
  const shape = { width: 128, inner: 256, heads: 4, kvHeads: 2, head: 32, layers: 2, vocabulary: 64 };
  // On an emulator those that run together: the others take longer than they tell.
  for (const [name, format] of Object.entries(formats).filter(([name]) => !small || ['hqq4', 'nf4', 'higgs4'].includes(name))) {
    const decoder = llamaShape(format, shape);
    found.push(close(`decoder, ${name}`, await logitsOf(backend, decoder), await logitsOf(reference, decoder), 1e-3));
  }
  for (const [name, format] of Object.entries(formats)) {
    const [rows, experts, width] = small ? [5, 3, 64] : [301, 8, 512];
    const moe = mixture(format, experts, width);
    const x = seededTensor(17, [rows, width + experts], 1);
    const [got, again, expected] = [await mixed(backend, moe, x), await mixed(backend, moe, x), await mixed(reference, moe, x)];
    // Activations that the second product of int8 rounds are of 255 steps.
    found.push(close(`experts, ${name}`, got, expected, name === 'int8' ? 1e-2 : 1e-4));
    found.push(close(`experts, ${name}, again`, again, got, 0));
  }
  const of = attention(small ? 2 : 8, small ? 1 : 2, 64);
  for (const keys of small ? [140] : [100, 1000, 5000]) {
    const [got, expected] = [await attended(backend, of, keys), await attended(reference, of, keys)];
    found.push(close(`attention over ${keys} keys`, got.last, expected.last, 1e-5));
  }
  for (const { weight } of formatSamples()) {
    const [one, other] = [await backend.prepare(weight), await reference.prepare(weight)];
    const [got, expected] = [await one.dequantize(), await other.dequantize()];
    const { kind, packing = '' } = /** @type {{ kind: string, packing?: string }} */ (weight.format);
    found.push(close(`weight, ${kind} ${packing} [${weight.shape.join(', ')}]`, toFloat32(got), toFloat32(expected), 1e-6));
    one[Symbol.dispose]();
    other[Symbol.dispose]();
  }
  found.push(await largest(backend, small ? 3000 : 128256));
  await reference[Symbol.asyncDispose]();
  return found;
}

/** @param {Backend} backend @param {number} width */
async function largest(backend, width) {
  const b = new ProgramBuilder({ layers: 1 });
  b.layer = 0;
  b.output('logits', b.scale(b.input('x', { width }), 1));
  const executable = await backend.compile(b.build(), [], { contextLength: 16 });
  const values = toFloat32(seededTensor(5, [2, width], 1)).map((value, i) => (i === width + 7 ? Number.NaN : Math.round(8 * value)));
  const x = {
    dtype: /** @type {const} */ ('f32'),
    shape: [2, width],
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  };
  const step = { id: executable.open(), tokens: new Uint32Array(2), wanted: Uint32Array.of(0, 1), inputs: { x } };
  const count = 40;
  const got = await executable.step([step], { largest: { logits: count } });
  executable[Symbol.dispose]();
  const expected = largestOfRows(values, width, count);
  /** @type {(a: Uint8Array | undefined, b: { buffer: ArrayBuffer }) => boolean} */
  const same = (a, { buffer }) => a !== undefined && Buffer.compare(a, new Uint8Array(buffer)) === 0;
  const ok = same(got.logits?.data, expected.values) && same(got['logits.ids']?.data, expected.ids);
  return { name: `the largest ${count} of ${width}`, ok, detail: ok ? 'the same bytes' : 'other bytes' };
}

/**
 * Milliseconds of a step of one query with the heads of Llama 3.2 1B over long caches, and GB/s at which weights are brought there.
 * @param {Backend} backend
 * @param {{ readonly small: boolean, readonly formats: Readonly<Record<string, Format>> }} settings
 */
export async function moreTimes(backend, { small, formats }) {
  const of = attention(small ? 2 : 32, small ? 1 : 8, 64);
  const attends = [];
  for (const keys of small ? [130] : [128, 1024, 4096, 16384])
    attends.push({ keys, milliseconds: (await attended(backend, of, keys, small ? 2 : 50)).milliseconds });
  const loads = [];
  for (const [name, format] of Object.entries(formats)) {
    const weight = sampleWeight(format, small ? [64, 128] : [4096, 4096]);
    const bytes = Object.values(weight.parts).reduce((sum, { data }) => sum + data.byteLength, 0);
    const times = [];
    for (let i = 0; i < (small ? 2 : 9); i++) {
      const start = performance.now();
      const linear = await backend.prepare(weight);
      linear[Symbol.dispose](); // which waits for what was enqueued
      times.push(performance.now() - start);
    }
    loads.push({ format: name, bytes, milliseconds: median(times.slice(1)) });
  }
  return { attends, loads };
}

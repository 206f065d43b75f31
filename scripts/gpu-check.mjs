// @ts-check
// The work of gpu-check.sh. Usage: node gpu-check.mjs [OUT]
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { cuda } from '@lowbit/kernels-cuda';
import { backendCases, runCases, sampleWeight, seededTensor } from '@lowbit/testing';
import { checks, llamaShape, moreTimes } from './gpu-checks.mjs';
import { median, onBackend } from './gpu-common.mjs';
import { prompts, promptTable } from './gpu-prompts.mjs';
import { quantizing } from './gpu-quantize.mjs';

const out = process.argv[2] ?? '.';
const small = process.env.LOWBIT_GPU_SHAPES === 'small';
/** For compute-sanitizer, which makes everything slow: the kit in both precisions, whose kernels are not the same. */
const kitOnly = process.env.LOWBIT_GPU_ONLY === 'kit';
const PAIRS = small ? 2 : 9;

/** @type {readonly (readonly [out: number, inp: number])[]} of Llama 3.1 8B and SmolLM2-135M */
const SHAPES = small
  ? [[64, 128]]
  : [
      [4096, 4096],
      [6144, 4096],
      [28672, 4096],
      [4096, 14336],
      [576, 576],
      [1536, 576],
      [49152, 576],
    ];
const ROWS = small ? [1, 3] : [1, 2, 4, 8, 16, 32, 64, 256];

/** @type {Readonly<Record<string, import('@lowbit/core').Format>>} */
const FORMATS = {
  hqq4: { kind: 'affine', levels: 16, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '4bit_u8' },
  hqq3: { kind: 'affine', levels: 8, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '3bit_32' },
  hqq8: { kind: 'affine', levels: 256, group: 64, axis: 1, scale: 'f16', zero: 'f16', packing: '8bit_u8' },
  higgs4: {
    ...{ kind: 'codebook', bits: 4, dim: 2, group: 64, table: 't', scale: 'f16', packing: 'u8' },
    rotate: { kind: 'hadamard', block: 64 },
  },
  nf4: { kind: 'codebook', bits: 4, dim: 1, group: 64, table: 'nf4', scale: 'f32', packing: 'bnb_nibble' },
  int8: { kind: 'int8', threshold: 6 },
  bf16: { kind: 'dense', dtype: 'bf16' },
};

/** @type {() => number} milliseconds */
const now = () => performance.now();

/**
 * Bytes a second that a GPU reads, by a kernel that does nothing else.
 * @param {string | undefined} driver
 */
async function readRate(driver) {
  const addon = createRequire(import.meta.url)
    .resolve('@lowbit/kernels-cuda/package.json')
    .replace(/package\.json$/, 'build/Release/lowbit_cuda.node');
  /** @type {import('@lowbit/kernels-cuda').CudaBinding} */
  const native = createRequire(import.meta.url)(addon);
  const device = await native.openDevice(driver, 0);
  const { multiprocessors } = native.deviceFacts(device);
  const bytes = small ? 1 << 16 : 1 << 30;
  const [from, to] = [native.createBuffer(device, bytes, false), native.createBuffer(device, 4, false)];
  const times = [];
  for (let i = 0; i <= PAIRS; i++) {
    const start = now();
    const rounds = small ? 1 : 20;
    for (let round = 0; round < rounds; round++) {
      const list = [{ buffer: 0 }, { int: bytes / 16 }, { buffer: 1 }];
      native.launch(device, { kernel: 'read_words', grid: [small ? 1 : 8 * multiprocessors, 1, 1], block: 256, arguments: list }, [
        from,
        to,
      ]);
    }
    await native.readBuffer(to, 0, new Uint8Array(4));
    times.push((now() - start) / rounds);
  }
  native.freeBuffer(from);
  native.freeBuffer(to);
  native.closeDevice(device);
  return bytes / (median(times.slice(1)) / 1e3);
}

/**
 * Milliseconds of one product, with copies of the weight so that none is in a cache.
 * @param {import('@lowbit/core').Backend} backend
 * @param {import('@lowbit/core').Format} format
 * @param {readonly [number, number]} shape
 */
async function products(backend, format, shape) {
  const weight = sampleWeight(format, shape);
  const first = await backend.prepare(weight);
  const copies = small ? 1 : Math.max(1, Math.min(16, Math.ceil(200e6 / first.bytes)));
  const linears = [first];
  while (linears.length < copies) linears.push(await backend.prepare(weight));
  /** @type {{ rows: number, milliseconds: number, bytesPerSecond: number }[]} */
  const found = [];
  for (const rows of ROWS) {
    const x = backend.alloc({ dtype: 'f32', shape: [rows, shape[1]] });
    const y = backend.alloc({ dtype: 'f32', shape: [rows, shape[0]] });
    backend.write(x, seededTensor(1, [rows, shape[1]], 1).data);
    const times = [];
    for (let i = 0; i <= PAIRS; i++) {
      const start = now();
      for (const linear of linears) linear.forward(x, y);
      await backend.read(y);
      times.push((now() - start) / linears.length);
    }
    const milliseconds = median(times.slice(1));
    found.push({ rows, milliseconds, bytesPerSecond: first.bytes / (milliseconds / 1e3) });
    backend.free(x);
    backend.free(y);
  }
  for (const linear of linears) linear[Symbol.dispose]();
  return { bytes: first.bytes, times: found };
}

/**
 * A decoder of two layers with the widths of Llama 3.2 1B: milliseconds a token, one sequence; the best token comes back, not the logits.
 * @param {import('@lowbit/core').Backend} backend
 * @param {import('@lowbit/core').Format} format
 */
async function decoding(backend, format) {
  const layers = 2;
  const shape = small
    ? { width: 64, inner: 128, heads: 2, kvHeads: 1, head: 32, vocabulary: 32 }
    : { width: 2048, inner: 8192, heads: 32, kvHeads: 8, head: 64, vocabulary: 1024 };
  const { program, weights } = llamaShape(format, { layers, ...shape });
  const linears = [];
  for (const [i, { use }] of program.linears.entries()) {
    const one = weights[i];
    if (one) linears.push(await backend.prepare(one, { use }));
  }
  const executable = await backend.compile(program, linears, { contextLength: 512 });
  const id = executable.open();
  const times = [];
  for (let i = 0; i < (small ? 4 : 200); i++) {
    const start = now();
    await executable.step([{ id, tokens: Uint32Array.of(i % 32) }], { largest: { logits: 1 } });
    times.push(now() - start);
  }
  const bytes = linears.reduce((sum, linear) => sum + linear.bytes, 0);
  executable[Symbol.dispose]();
  for (const linear of linears) linear[Symbol.dispose]();
  return { layers, bytes, millisecondsPerToken: median(times.slice(times.length / 2)) };
}

/**
 * What is right on a GPU, and how long it takes.
 * @param {import('@lowbit/core').Backend} backend
 */
async function measure(backend) {
  console.log('checks ...');
  const checked = await checks(backend, { small, formats: FORMATS });
  console.log(`${checked.filter(({ ok }) => ok).length} of ${checked.length} right`);
  for (const { name, ok, detail } of checked) if (!ok) console.log(`  ${name}: ${detail}`);
  const times = [];
  /** @type {Record<string, Awaited<ReturnType<typeof decoding>>>} */
  const decoders = {};
  for (const [name, format] of Object.entries(FORMATS)) {
    for (const shape of SHAPES) {
      console.log(`${name} [${shape.join(', ')}] ...`);
      times.push({ format: name, shape, ...(await products(backend, format, shape)) });
    }
    console.log(`${name}, decoding ...`);
    decoders[name] = await decoding(backend, format);
  }
  const { attends, loads } = await moreTimes(backend, { small, formats: FORMATS });
  console.log('prompts ...');
  const long = await onBackend(cuda({ precision: 'fast' }), (fast) => prompts({ exact: backend, fast }, { small, formats: FORMATS }));
  console.log('quantizing ...');
  const quantized = await quantizing(backend, { small });
  const { label, features } = backend.device;
  return { label, features, checks: checked, products: times, decoders, attends, loads, prompts: long, quantized };
}

async function main() {
  const provider = cuda();
  const probe = await provider.probe();
  console.log(probe.ok ? probe.detail : `${probe.reason}. ${probe.hint ?? ''}`);
  if (!probe.ok) return 1;

  console.log('conformance kit, exact and fast ...');
  const coarse = { tolerances: { linear: 5e-4, batch: 5e-4 } };
  const fastCases = backendCases(cuda({ precision: 'fast' }), coarse);
  const outcomes = await runCases([...backendCases(provider), ...fastCases.map((one) => ({ ...one, group: `fast: ${one.group}` }))]);
  const failed = outcomes.filter(({ outcome }) => outcome === 'failed');
  const conformance = {
    passed: outcomes.filter(({ outcome }) => outcome === 'passed').length,
    skipped: outcomes.filter(({ outcome }) => outcome === 'skipped').length,
    failed: failed.map(({ group, name, reason }) => ({ group, name, reason })),
  };
  console.log(`${conformance.passed} passed, ${failed.length} failed, ${conformance.skipped} skipped`);
  for (const { group, name, reason } of failed) console.log(`  ${group} > ${name}: ${reason}`);

  if (kitOnly) return failed.length > 0 ? 1 : 0;

  const bytesPerSecond = await readRate(process.env.LOWBIT_CUDA_DRIVER || undefined);
  console.log(`reads ${(bytesPerSecond / 1e9).toFixed(0)} GB/s`);
  const { label, features, ...found } = await onBackend(provider, measure);
  const { checks: checked, products: times, decoders, attends, loads, prompts: long, quantized } = found;
  const wrong = checked.filter(({ ok }) => !ok);

  const result = {
    device: label,
    features,
    probe: probe.detail,
    node: process.version,
    conformance,
    readBytesPerSecond: bytesPerSecond,
    ...found,
  };
  mkdirSync(out, { recursive: true });
  writeFileSync(join(out, 'gpu-check.json'), `${JSON.stringify(result, null, 2)}\n`);
  const rows = times.map(({ format, shape, times: list }) => {
    const cells = list.map((one) => `${(1e3 * one.milliseconds).toFixed(1)} (${(one.bytesPerSecond / bytesPerSecond).toFixed(2)})`);
    return `| ${format} | ${shape.join(' x ')} | ${cells.join(' | ')} |`;
  });
  const text = [
    `# CUDA backend on ${label} (${features.join(', ')})`,
    '',
    `${probe.detail}. Conformance: ${conformance.passed} passed, ${failed.length} failed, ${conformance.skipped} skipped. Reads ${(bytesPerSecond / 1e9).toFixed(0)} GB/s.`,
    '',
    'Microseconds of a product by rows of x; in brackets bytes of the weight a second over what a kernel that only reads does. Launches are counted in.',
    '',
    `| format | shape | ${ROWS.join(' | ')} |`,
    `|---|---|${ROWS.map(() => '---').join('|')}|`,
    ...rows,
    '',
    'A decoder of two layers, one token at a time:',
    '',
    '| format | MB of weights | ms a token | of the read rate |',
    '|---|---|---|---|',
    ...Object.entries(decoders).map(([name, { bytes, millisecondsPerToken: ms }]) => {
      return `| ${name} | ${(bytes / 1e6).toFixed(1)} | ${ms.toFixed(3)} | ${(bytes / (ms / 1e3) / bytesPerSecond).toFixed(2)} |`;
    }),
    '',
    ...promptTable(long),
    '',
    'One query with the heads of Llama 3.2 1B over a cache, microseconds of a step, launches and the way back counted in:',
    '',
    `| keys | ${attends.map(({ keys }) => keys).join(' | ')} |`,
    `|---|${attends.map(() => '---').join('|')}|`,
    `| us | ${attends.map(({ milliseconds }) => (1e3 * milliseconds).toFixed(1)).join(' | ')} |`,
    '',
    'Bringing a weight [4096, 4096] there, room for it and its way into rows counted in:',
    '',
    '| format | MB | ms | GB/s |',
    '|---|---|---|---|',
    ...loads.map(({ format, bytes, milliseconds: ms }) => {
      return `| ${format} | ${(bytes / 1e6).toFixed(1)} | ${ms.toFixed(3)} | ${(bytes / 1e6 / ms).toFixed(1)} |`;
    }),
    '',
    'Quantizing a stream of matrices of bf16, two at a time: over the longer of reading them once and bringing them there (Q1: 1.3, goal 1.1); and how much faster than the TypeScript on one thread a matrix is (Q2: 10, goal 30):',
    '',
    '| method | ms for 1e9 weights | over the floor | times the TypeScript |',
    '|---|---|---|---|',
    ...quantized.map(({ method, weights, milliseconds, overFloor, overReference }) => {
      return `| ${method} | ${((1e9 * milliseconds) / weights).toFixed(0)} | ${overFloor.toFixed(2)} | ${overReference.toFixed(1)} |`;
    }),
    '',
    `Checks: ${checked.length - wrong.length} of ${checked.length} right.`,
    ...wrong.map(({ name, detail }) => `- ${name}: ${detail}`),
    ...failed.flatMap(({ group, name, reason }, i) => [...(i === 0 ? ['', 'Failed:', ''] : []), `- ${group} > ${name}: ${reason}`]),
    '',
  ];
  writeFileSync(join(out, 'gpu-check.md'), text.join('\n'));
  console.log(`wrote ${join(out, 'gpu-check.json')} and gpu-check.md`);
  return failed.length + wrong.length > 0 ? 1 : 0;
}

process.exitCode = await main();

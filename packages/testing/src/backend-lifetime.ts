// Cases about memory and dispose: what is taken is counted, what is disposed is given back, and what was disposed says so.

import type { SuiteContext } from './backend.ts';
import { sampleWeight } from './formats.ts';
import { type Case, check, checkThrows } from './kit.ts';
import { play, prepareWeights, together, whyNot } from './play.ts';
import { decoderCase } from './programs.ts';

const DENSE = { kind: 'dense', dtype: 'f32' } as const;

export function lifetimeCases(context: SuiteContext): readonly Case[] {
  const on = (name: string, body: (context: SuiteContext) => Promise<unknown>): Case => ({
    group: 'lifetime',
    name,
    run: () => body(context),
  });
  return [
    on('tensors keep their bytes, are counted and given back', tensorsAreCounted),
    on('a linear used after dispose says so', linearsSayDisposed),
    on('an executable gives back everything, its caches too', executablesGiveBack),
    on('a program that breaks a rule is refused', refusesBrokenPrograms),
    on('linears that it did not prepare are refused', refusesForeignLinears),
    on('aborting leaves nothing behind', abortsClean),
    on('probing twice and opening twice are two backends', opensTwice),
  ];
}

async function tensorsAreCounted({ backend }: SuiteContext): Promise<void> {
  const subject = await backend();
  const before = subject.allocated();
  const tensor = subject.alloc({ dtype: 'f32', shape: [3, 5] });
  const bytes = Uint8Array.from({ length: 60 }, (_, i) => i);
  subject.write(tensor, bytes);
  const { data, dtype, shape } = await subject.read(tensor);
  check(dtype === 'f32' && shape.join() === '3,5' && data.every((byte, i) => byte === i), 'read gives other bytes than were written');
  check(subject.allocated() >= before + 60, 'a tensor is not counted in allocated()');
  await checkThrows('writing too few bytes', 'ERR_BAD_ARGUMENT', () => subject.write(tensor, bytes.subarray(1)));
  subject.free(tensor);
  check(subject.allocated() === before, `${subject.allocated() - before} bytes are still held after free`);
  await checkThrows('reading a freed tensor', 'ERR_DISPOSED', () => subject.read(tensor));
}

async function linearsSayDisposed({ backend }: SuiteContext): Promise<unknown> {
  const subject = await backend();
  const weight = sampleWeight(DENSE, [8, 8]);
  const support = subject.supports({ format: DENSE, shape: weight.shape, use: 'linear' });
  if (support.level === 'none') return support.reason;
  const before = subject.allocated();
  const linear = await subject.prepare(weight);
  const x = subject.alloc({ dtype: 'f32', shape: [1, 8] });
  const out = subject.alloc({ dtype: 'f32', shape: [1, 8] });
  linear[Symbol.dispose]();
  linear[Symbol.dispose](); // a second time does nothing
  await checkThrows('forward', 'ERR_DISPOSED', () => linear.forward(x, out));
  await checkThrows('dequantize', 'ERR_DISPOSED', () => linear.dequantize());
  subject.free(x);
  subject.free(out);
  check(subject.allocated() === before, `${subject.allocated() - before} bytes are still held`);
}

async function executablesGiveBack({ backend }: SuiteContext): Promise<unknown> {
  const subject = await backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  const before = subject.allocated();
  const linears = await prepareWeights(subject, one.test);
  const weights = subject.allocated();
  const executable = await subject.compile(one.test.program, linears, { contextLength: 32 });
  await play(executable, one.test.program, one.scripts, together(one.scripts));
  check(executable.memory().cache === 0, `caches of closed sequences take ${executable.memory().cache} bytes`);
  const id = executable.open();
  await executable.step([{ id, tokens: Uint32Array.of(1, 2, 3) }]);
  check(executable.memory().cache >= 3 * 2 * 2 * 16 * 2, `keys and values of 3 tokens take ${executable.memory().cache} bytes`);
  check(subject.allocated() >= weights + executable.memory().cache, 'caches are not counted in allocated()');
  executable.fork(id);
  executable[Symbol.dispose]();
  executable[Symbol.dispose]();
  check(subject.allocated() === weights, `${subject.allocated() - weights} bytes are still held after the executable's dispose`);
  await checkThrows('open', 'ERR_DISPOSED', () => executable.open());
  await checkThrows('step', 'ERR_DISPOSED', () => executable.step([{ id, tokens: Uint32Array.of(1) }]));
  for (const linear of linears) linear[Symbol.dispose]();
  check(subject.allocated() === before, `${subject.allocated() - before} bytes are still held`);
}

async function refusesBrokenPrograms({ backend }: SuiteContext): Promise<unknown> {
  const subject = await backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  const linears = await prepareWeights(subject, one.test);
  const { program } = one.test;
  const options = { contextLength: 32 };
  const backwards = { ...program, ops: [...program.ops].reverse() };
  await checkThrows('operations in the wrong order', 'ERR_BAD_ARGUMENT', () => subject.compile(backwards, linears, options));
  await checkThrows('too few linears', 'ERR_BAD_ARGUMENT', () => subject.compile(program, linears.slice(1), options));
  for (const linear of linears) linear[Symbol.dispose]();
}

async function refusesForeignLinears({ backend, reference }: SuiteContext): Promise<unknown> {
  const subject = await backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  const linears = await prepareWeights(subject, one.test);
  const other = await reference();
  const foreign = await prepareWeights(other, one.test);
  const at = one.test.program.linears.findIndex(({ use }) => use === 'linear');
  const compile = (list: typeof linears): Promise<unknown> => subject.compile(one.test.program, list, { contextLength: 32 });
  await checkThrows("another backend's linear", 'ERR_BAD_ARGUMENT', () => compile(linears.with(at, foreign[at]!)));
  const inner = linears[at]!;
  const wrapper = {
    format: inner.format,
    shape: inner.shape,
    bytes: inner.bytes,
    bias: inner.bias,
    forward: inner.forward.bind(inner),
    dequantize: inner.dequantize.bind(inner),
    [Symbol.dispose]: () => {},
  };
  await checkThrows('a wrapper around its own', 'ERR_BAD_ARGUMENT', () => compile(linears.with(at, wrapper)));
  for (const linear of [...linears, ...foreign]) linear[Symbol.dispose]();
}

async function abortsClean({ backend }: SuiteContext): Promise<unknown> {
  const subject = await backend();
  const one = decoderCase();
  const reason = whyNot(subject, one.test);
  if (reason) return reason;
  const before = subject.allocated();
  const signal = AbortSignal.abort(Object.assign(new Error('stop'), { code: 'ERR_TEST_ABORT' }));
  const [weight] = one.test.weights.values();
  await checkThrows('an aborted prepare', 'ERR_TEST_ABORT', () => subject.prepare(weight!, { signal }));
  check(subject.allocated() === before, `${subject.allocated() - before} bytes are held by an aborted prepare`);
  const linears = await prepareWeights(subject, one.test);
  const weights = subject.allocated();
  const options = { contextLength: 32, signal };
  await checkThrows('an aborted compile', 'ERR_TEST_ABORT', () => subject.compile(one.test.program, linears, options));
  check(subject.allocated() === weights, `${subject.allocated() - weights} bytes are held by an aborted compile`);
  for (const linear of linears) linear[Symbol.dispose]();
}

async function opensTwice({ provider }: SuiteContext): Promise<unknown> {
  await provider.probe();
  const probe = await provider.probe();
  check(probe.ok ? probe.detail.length > 0 : probe.reason.length > 0, 'a probe needs words');
  if (!probe.ok) return probe.reason;
  const second = await provider.open();
  check(second.allocated() === 0, `a new backend holds ${second.allocated()} bytes`);
  second.alloc({ dtype: 'f32', shape: [4] });
  await second[Symbol.asyncDispose]();
  await second[Symbol.asyncDispose]();
  check(second.allocated() === 0, `a disposed backend holds ${second.allocated()} bytes`);
  await checkThrows('alloc after dispose', 'ERR_DISPOSED', () => second.alloc({ dtype: 'f32', shape: [1] }));
}

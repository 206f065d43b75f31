// What callers hand over by mistake is refused with a code, never with an error of the engine.

import { fileURLToPath } from 'node:url';
import { nf4 } from '@lowbit/bnb';
import { createRuntime, dequantize, float32Tensor, isLowbitError, patchLinears, quantize, referenceBackend } from '@lowbit/core';
import { higgs } from '@lowbit/higgs';
import { hqq } from '@lowbit/hqq';
import { openCheckpoint, planQuantization, quantizeCheckpoint } from '@lowbit/hub';
import { cpu } from '@lowbit/kernels-cpu';
import {
  benchModel,
  collectImportance,
  createTokenizer,
  defaultAdapters,
  estimateMemory,
  klDivergence,
  loadModel as loadFrom,
  loadImageTower,
  loadTokenizer,
  measureSensitivities,
  perplexity,
} from '@lowbit/models';
import { expect, test } from 'vitest';

import * as allocation from './allocate-model.ts';
import * as backends from './backends.ts';
import * as choices from './choices.ts';
import * as conversion from './convert-model.ts';
import * as importance from './importance.ts';
import * as loading from './load-model.ts';
import * as measuring from './measure.ts';
import * as opening from './open.ts';
import * as quantizing from './quantize-model.ts';

const TINY = fileURLToPath(new URL('../../../examples/tiny-llama', import.meta.url));
// biome-ignore lint/suspicious/noExplicitAny: what is not allowed is what is tested
type Any = any;
const l: Record<string, Any> = {
  ...{ ...allocation, ...backends, ...choices, ...conversion, ...importance, ...loading, ...measuring, ...opening, ...quantizing },
  ...{ benchModel, higgs, hqq, klDivergence, openCheckpoint, perplexity },
};
const quantizer = hqq({ bits: 4 });

const zeros = (shape: readonly number[]) => float32Tensor(shape, new Float32Array(shape[0]! * shape[1]!));
const SCORER = { vocab: 8, contextLength: 8, async *logitRows() {} };

/** Calls with what is right but for what is given. */
function patch({ host = {}, options = {}, ...rest }: Any): Promise<unknown> {
  const right = { linears: () => [{ path: 'a', shape: [8, 64] }], weight: async () => ({ weight: zeros([8, 64]) }), replace() {} };
  const runtime = { linear() {}, routine() {} };
  const rules = 'rules' in rest ? rest.rules : [{ match: 'a', use: quantizer }];
  return patchLinears({ ...right, ...host }, rules, { runtime, ...options });
}

async function withTiny(use: (tiny: Any) => Promise<unknown>): Promise<unknown> {
  await using tiny = await openCheckpoint(TINY);
  return await use(tiny);
}

test.each<[string, () => unknown]>([
  ['loadModel()', () => l.loadModel()],
  ['loadModel(3)', () => l.loadModel(3)],
  ['loadModel(path, null)', () => l.loadModel(TINY, null)],
  ['loadModel(path, { foo })', () => l.loadModel(TINY, { foo: 1 })],
  ['loadModel(path, { backends: 3 })', () => l.loadModel(TINY, { backends: 3 })],
  ['loadModel(path, { runtime: {} })', () => l.loadModel(TINY, { runtime: {} })],
  ['models: loadModel()', () => (loadFrom as Any)()],
  ['models: loadModel({}, {})', () => (loadFrom as Any)({}, {})],
  ['quantizeModel()', () => l.quantizeModel()],
  ['quantizeModel(path)', () => l.quantizeModel(TINY)],
  ['quantizeModel(path, {})', () => l.quantizeModel(TINY, {})],
  ['quantizeModel(path, { out: 3 })', () => l.quantizeModel(TINY, { out: 3, quantizer })],
  ['planModel()', () => l.planModel()],
  ['planModel(path, null)', () => l.planModel(TINY, null)],
  ['allocateModel()', () => l.allocateModel()],
  ['allocateModel(path)', () => l.allocateModel(TINY)],
  ['allocateModel(path, { targetBits, foo })', () => l.allocateModel(TINY, { targetBits: 3, foo: 1 })],
  ['allocateModel(path, { targetBits, choices: 3 })', () => l.allocateModel(TINY, { targetBits: 3, choices: 3 })],
  [
    'allocateModel(path, { targetBits, tokens })',
    () => l.allocateModel(TINY, { targetBits: 3, tokens: 'x', backends: [referenceBackend()] }),
  ],
  ['allocateModel(path, { targetBits, ids })', () => l.allocateModel(TINY, { targetBits: 3, ids: 'x', backends: [referenceBackend()] })],
  ['makeChoices([3])', () => l.makeChoices([3])],
  ['measureLoss()', () => l.measureLoss()],
  ['convertModel()', () => l.convertModel()],
  ['planConversion()', () => l.planConversion()],
  ['findBackends(3)', () => l.findBackends(3)],
  ["findBackends('cpu', 3)", () => l.findBackends('cpu', 3)],
  ['findImportance()', () => l.findImportance(undefined as never, 'none')],
  ['openModelFolder()', () => l.openModelFolder()],
  ['openCheckpoint()', () => l.openCheckpoint()],
  ['openCheckpoint(path, { foo })', () => l.openCheckpoint(TINY, { foo: 1 })],
  ['perplexity()', () => l.perplexity()],
  ['klDivergence()', () => l.klDivergence()],
  ['benchModel()', () => l.benchModel()],
  ['estimateMemory()', () => (estimateMemory as Any)()],
  ['measureSensitivities()', () => (measureSensitivities as Any)()],
  ['collectImportance()', () => (collectImportance as Any)()],
  ['loadTokenizer()', () => (loadTokenizer as Any)()],
  ['createTokenizer()', () => (createTokenizer as Any)()],
  ['dequantize()', () => (dequantize as Any)()],
  ['patchLinears()', () => (patchLinears as Any)()],
  ['patchLinears(undefined)', () => patchLinears(undefined as Any, [], { runtime: {} as Any })],
  ['patchLinears({})', () => patchLinears({} as Any, [], { runtime: {} as Any })],
  ['patchLinears(host without replace)', () => patch({ host: { replace: undefined } })],
  ['patchLinears(host, undefined)', () => patch({ rules: undefined })],
  ['patchLinears(host, {})', () => patch({ rules: {} })],
  ['patchLinears without a runtime', () => patch({ options: { runtime: undefined } })],
  ['patchLinears of a linear without a path', () => patch({ host: { linears: () => [{ shape: [8, 64] }] } })],
  ['patchLinears of a weight of another shape', () => patch({ host: { weight: async () => ({ weight: zeros([4, 64]) }) } })],
  ['patchLinears of a bare tensor', () => patch({ host: { weight: async () => zeros([8, 64]) } })],
  ['patchLinears of no weight', () => patch({ host: { weight: async () => undefined } })],
  ["patchLinears with importance: 'random-tokens'", () => patch({ options: { importance: 'random-tokens' } })],
  [
    'quantize with importance that is a list',
    () => quantize(zeros([8, 64]), nf4({ scale: 'search' }), { importance: new Float32Array(64) as Any }),
  ],
  ['quantizeCheckpoint(path)', () => quantizeCheckpoint(TINY as Any, { out: '/tmp/never', quantizer, adapters: defaultAdapters })],
  ['quantizeCheckpoint without adapters', () => withTiny((tiny) => quantizeCheckpoint(tiny, { out: '/tmp/never', quantizer } as Any))],
  ['planQuantization()', () => (planQuantization as Any)()],
  ['loadImageTower(path)', () => (loadImageTower as Any)(TINY, {})],
  ['compareLinears()', () => l.compareLinears()],
  ['compareLinears(path, path, {})', () => l.compareLinears(TINY, TINY, { backends: [referenceBackend()] })],
  ['findImportance of ids that are no lists', () => l.findImportance(TINY, { ids: [1, 2, 999999] }, { backends: [referenceBackend()] })],
  ['findImportance of an unknown id', () => l.findImportance(TINY, { ids: [[1, 2, 999999]] }, { backends: [referenceBackend()] })],
  ['klDivergence of a broken id', () => l.klDivergence(SCORER, SCORER, [1, 1.5, 2])],
  ['createRuntime()', () => (createRuntime as Any)()],
  ['createRuntime({ backends: [null] })', () => createRuntime({ backends: [null as Any] })],
  ['createRuntime({ backends: [referenceBackend] })', () => createRuntime({ backends: [referenceBackend as Any] })],
  ['createRuntime({ allowDequant: 1 })', () => createRuntime({ backends: [referenceBackend()], allowDequant: 1 as Any })],
  ['createRuntime({ codecs: 3 })', () => createRuntime({ backends: [referenceBackend()], codecs: 3 as Any })],
  ['referenceBackend(3)', () => referenceBackend(3 as Any)],
  ['referenceBackend({ foo })', () => referenceBackend({ foo: 1 } as Any)],
  ['referenceBackend({ name: 3 })', () => referenceBackend({ name: 3 as Any })],
  ['cpu(3)', () => cpu(3 as Any)],
  ['cpu({ threads })', () => cpu({ threads: 'x' as Any })],
  ['hqq(3)', () => l.hqq(3)],
  ['higgs(3)', () => l.higgs(3)],
])('%s', async (_, call) => {
  const error = await (async () => call())().then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isLowbitError(error)) throw error ?? new Error('it was taken');
  expect(error.code).toMatch(/^ERR_(BAD_ARGUMENT|TOKENIZER)$/);
});

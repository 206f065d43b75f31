// The calls of the page. One model is chosen, and one is open for texts, at a time.

import { byteLength, createRuntime, elementCount, type Format, isLowbitError, LowbitError, type Runtime } from '@lowbit/core';
import { planQuantization, quantizeCheckpoint, type StoredCheckpoint } from '@lowbit/hub';
import { defaultAdapters, estimateMemory, type LanguageModel, loadModel, type PromptCache } from '@lowbit/models';
import { RUN_ON, runOn } from '../backends.ts';
import { makeQuantizer, type Settings } from '../methods.ts';
import type { Calls, LayerError, Opened, Plan, PlanRow, Progress, Source } from '../protocol.ts';
import { availableMemory } from './memory.ts';
import { labelOf, openSource, openStore } from './sources.ts';
import { takeTurns } from './turns.ts';

interface Context {
  readonly signal: AbortSignal;
  readonly report: (progress: Progress) => void;
}

type Handlers = { readonly [Name in keyof Calls]: (args: Calls[Name][0], context: Context) => Promise<Calls[Name][1]> };

let chosen: StoredCheckpoint | undefined;
let open: { readonly model: LanguageModel; readonly cache: PromptCache | undefined; readonly chats: boolean } | undefined;
let runtime: Promise<Runtime> | undefined;
/** Of calls that choose a model, and of those that open or close one for texts. */
const [choosing, opening] = [takeTurns(), takeTurns()];

const backends = RUN_ON[runOn(self.name)];

function getRuntime(): Promise<Runtime> {
  runtime ??= createRuntime({ backends: backends() });
  return runtime;
}

export const handlers: Handlers = {
  async place() {
    const [gpu, plain] = ['webgpu', 'reference'].map((name) => backends().find((backend) => backend.name === name));
    const probe = await gpu?.probe();
    return { gpu: probe && { ok: probe.ok, text: (probe.ok ? probe.detail : probe.reason) ?? '' }, plain: plain !== undefined };
  },

  open({ source }, { signal }) {
    return choosing(async () => {
      // The one before is let go, also where this one turns out to be none.
      const before = chosen;
      chosen = undefined;
      await before?.[Symbol.asyncDispose]();
      const checkpoint = await openSource(source, signal);
      chosen = checkpoint;
      return describe(source, checkpoint);
    }, signal);
  },

  plan({ settings }, { signal }) {
    return afresh(async () => {
      const checkpoint = needChosen();
      const { plan, files, summary, loadsIn } = await planQuantization(checkpoint, options(settings));
      const formats = new Map<string, Format | undefined>(plan.linears.map(({ site, format }) => [site.path, format]));
      const { available, measured } = availableMemory();
      const memory = await estimateMemory(checkpoint, {
        runtime: await getRuntime(),
        formatOf: (path) => formats.get(path),
        available,
        signal,
      });
      const rows = planRows(checkpoint, plan.linears, plan.tensors);
      return {
        rows,
        restBytes: summary.tensorBytes - rows.reduce((sum, row) => sum + row.after, 0),
        quantized: summary.quantizedLinears,
        linears: summary.linears,
        bitsPerWeight: summary.bitsPerWeight,
        before: checkpoint.source.files.reduce((sum, file) => sum + file.size, 0),
        after: files.reduce((sum, { name, bytes }) => sum + (name.endsWith('.safetensors') ? bytes : 0), 0),
        loadsIn,
        memory: { ...memory, available, measured },
      };
    });
  },

  quantize({ settings, name, replace }, { signal, report }) {
    return afresh(async () => {
      const store = await openStore();
      await store.persist();
      const result = await quantizeCheckpoint(needChosen(), {
        ...options(settings),
        store,
        out: name,
        overwrite: replace,
        resume: true,
        runtime: await getRuntime(),
        signal,
        onProgress: ({ phase, done, total, item }) => report({ kind: 'progress', phase, done, total, item }),
      });
      const sites = new Map(result.plan.linears.map(({ site }) => [site.path, site]));
      return {
        name,
        ms: result.ms,
        bytes: result.files.reduce((sum, { bytes }) => sum + bytes, 0),
        error: Math.sqrt(result.weightError),
        resumed: result.resumed,
        linears: result.linears.map(({ path, squaredError, squaredWeight }): LayerError => {
          const site = sites.get(path)!;
          return { path, layer: layerOf(path), tag: site.tag, error: Math.sqrt(squaredError / squaredWeight) };
        }),
      };
    });
  },

  async library() {
    const store = await openStore();
    return { models: await store.models(), place: store.kind, used: (await store.space())?.used };
  },

  async remove({ name, only }) {
    await (await openStore()).remove(name, { only });
    return undefined;
  },

  load({ source }, context) {
    return opening(() => afresh(() => load(source, context)), context.signal);
  },

  generate({ messages, maxTokens, temperature, seed }, { signal, report }) {
    return afresh(async () => {
      if (!open) throw new Error('no model is open');
      const { model, cache: promptCache, chats } = open;
      const stream = model.stream({
        ...(chats ? { messages } : { prompt: messages.map(({ content }) => content).join('') }),
        ...(temperature === 0 ? { temperature } : { temperature, topK: 40 }),
        ...(seed === undefined ? {} : { seed }),
        maxTokens,
        promptCache,
        signal,
      });
      for await (const { text, result } of stream) {
        if (text !== '') report({ kind: 'text', text });
        if (!result) await messagesArrive();
        else {
          const { ids, finishReason, usage, timings } = result;
          return {
            ...{ ids, finishReason, seed: result.seed },
            promptTokens: usage.promptTokens,
            tokens: usage.completionTokens,
            tokensPerSecond: timings.tokensPerSecond,
            memory: model.memory(),
          };
        }
      }
      throw new Error('the text ended without a result');
    });
  },

  close(_, { signal }) {
    return opening(close, signal);
  },
};

/** What `work` gives. A GPU that is lost in the middle is let go with what was on it: the next call opens another, or what may take its place. */
async function afresh<T>(work: () => Promise<T>): Promise<T> {
  const used = runtime;
  try {
    return await work();
  } catch (error) {
    if (!isLowbitError(error, 'ERR_DEVICE')) throw error;
    const lost = used ?? runtime;
    if (lost !== undefined && lost === runtime) {
      open = undefined;
      runtime = undefined;
      await (await lost)[Symbol.asyncDispose]();
    }
    const hint =
      'What was on the GPU is gone, saved models and unfinished work are not. Try again: it starts afresh, without the GPU if that is gone.';
    throw new LowbitError('ERR_DEVICE', error.message, { hint, cause: error, details: error.details });
  }
}

async function load(source: Source, { signal, report }: Context): Promise<Calls['load'][1]> {
  await close();
  const checkpoint = await openSource(source, signal);
  try {
    const model = await loadModel(checkpoint, {
      runtime: await getRuntime(),
      maxSequences: 2, // one that is written, one that the cache holds
      signal,
      onProgress: ({ phase, done, total, item }) => report({ kind: 'progress', phase, done, total, item }),
    });
    const chats = model.tokenizer.chatTemplates.length > 0;
    open = { model, cache: cacheOf(model), chats };
    const { contextLength } = model;
    const backend = [...new Set(model.placement.map((placed) => placed.backend))].join(', ');
    return { label: labelOf(source, checkpoint), chats, backend, weights: model.memory().weights, contextLength };
  } finally {
    await checkpoint[Symbol.asyncDispose]();
  }
}

async function close(): Promise<Calls['close'][1]> {
  const before = await held();
  const closing = open;
  open = undefined;
  await closing?.cache?.[Symbol.asyncDispose]();
  await closing?.model[Symbol.asyncDispose]();
  return { before, after: await held() };
}

/** Bytes that the backends of this page hold. */
async function held(): Promise<number> {
  const runtime = await getRuntime();
  let bytes = 0;
  for (const name of runtime.backends) {
    // One that is not there holds nothing.
    const backend = await runtime.backend(name).catch(() => undefined);
    bytes += backend?.allocated() ?? 0;
  }
  return bytes;
}

/** A message that asks to stop is only heard when the worker has nothing to do for a moment. */
function messagesArrive(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(undefined);
  });
}

function needChosen(): StoredCheckpoint {
  if (!chosen) throw new Error('no model is chosen');
  return chosen;
}

const options = (settings: Settings) => ({ quantizer: makeQuantizer(settings), adapters: defaultAdapters });

const layerOf = (path: string): number => Number(/\.(\d+)\./.exec(path)?.[1] ?? 0);

function cacheOf(model: LanguageModel): PromptCache | undefined {
  try {
    return model.promptCache();
  } catch {
    return undefined; // models whose positions depend on the length of the text
  }
}

function describe(source: Source, checkpoint: StoredCheckpoint): Opened {
  const { config, source: tensors, layout } = checkpoint;
  let parameters = 0;
  for (const { shape } of tensors.entries.values()) parameters += elementCount(shape);
  const { model_type: type, num_hidden_layers: layers } = config;
  return {
    label: labelOf(source, checkpoint),
    architecture: typeof type === 'string' ? type : 'unknown',
    layers: typeof layers === 'number' ? layers : 0,
    parameters,
    bytes: tensors.files.reduce((sum, file) => sum + file.size, 0),
    layout,
  };
}

type Planned = Awaited<ReturnType<typeof planQuantization>>['plan'];

/** Linears by tag, with the bytes of their tensors before and after. */
function planRows({ source }: StoredCheckpoint, linears: Planned['linears'], tensors: Planned['tensors']): PlanRow[] {
  const stored = new Map<string, number>();
  for (const [name, { spec, origin }] of tensors) {
    const path = origin.kind === 'copy' ? name.replace(/\.weight$/, '') : origin.path;
    stored.set(path, (stored.get(path) ?? 0) + byteLength(spec));
  }
  const rows = new Map<string, PlanRow>();
  for (const { site, use } of linears) {
    const row = rows.get(site.tag) ?? { tag: site.tag, linears: 0, weights: 0, kept: use === 'keep', before: 0, after: 0 };
    const original = source.entries.get(`${site.path}.weight`);
    const before = original === undefined ? 0 : byteLength(original);
    rows.set(site.tag, {
      ...row,
      linears: row.linears + 1,
      weights: row.weights + elementCount(site.shape),
      before: row.before + before,
      after: row.after + (stored.get(site.path) ?? 0),
    });
  }
  return [...rows.values()];
}

export type { Plan };

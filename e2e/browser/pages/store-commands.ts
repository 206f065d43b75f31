// What the tests of the store do in a page or in a worker. Arguments and results are plain data.

import { hqq } from '@lowbit/hqq';
import {
  type BrowserStore,
  createStoreSink,
  openBrowserStore,
  openCheckpoint,
  quantizeCheckpoint,
  type SafetensorsSink,
  urlFolder,
} from '@lowbit/hub';
import { llama } from '@lowbit/models';
import { type Outcome, runCases, type SinkSubject, sampleTensors, sinkCases, sourceCases } from '@lowbit/testing';

type Kind = 'opfs' | 'cache';
const JOB = 'job 1';
const specs = () => new Map(Object.entries(sampleTensors()));
/** Kept open on purpose: what a tab holds when it is closed, or while another one looks. */
const held: unknown[] = [];

/** A store refuses models without config.json; the cases write tensors alone. */
async function finishable(sink: SafetensorsSink): Promise<SafetensorsSink> {
  const close = async () => {
    await sink.writeFile('config.json', new TextEncoder().encode('{}')).catch(() => {});
    await sink.close();
  };
  return { ...sink, close };
}

async function openSource(store: BrowserStore, name: string) {
  const checkpoint = await openCheckpoint(await store.folder(name));
  const { source } = checkpoint;
  return { ...source, [Symbol.asyncDispose]: () => checkpoint[Symbol.asyncDispose]() as Promise<void> };
}

async function subject(store: BrowserStore, name: string, keepPartial: boolean): Promise<SinkSubject> {
  const sink = await finishable(await createStoreSink(store, name, { fingerprint: 'conformance', resume: true, keepPartial }));
  return {
    sink,
    open: () => openSource(store, name),
    ...(keepPartial && {
      async again() {
        await sink[Symbol.asyncDispose]();
        return subject(store, name, true);
      },
    }),
  };
}

async function write(sink: SafetensorsSink, { shards = false } = {}): Promise<void> {
  if (!shards) await sink.reserve(specs(), {});
  for (const [name, { data }] of specs()) await sink.write(name, 0, data);
  await sink.writeFile('config.json', new TextEncoder().encode('{}'));
}

async function digests(store: BrowserStore, name: string): Promise<Record<string, string>> {
  const folder = await store.folder(name);
  try {
    const found: Record<string, string> = {};
    for (const file of [...(await folder.names())].sort()) {
      if (file.startsWith('.')) continue;
      const data = (await folder.read(file, 2 ** 30))!;
      const digest = await crypto.subtle.digest('SHA-256', data as Uint8Array<ArrayBuffer>);
      found[file] = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join('');
    }
    return found;
  } finally {
    await folder[Symbol.asyncDispose]();
  }
}

export const commands = {
  async conformance(kind: Kind): Promise<Outcome[]> {
    const store = await openBrowserStore({ name: 'conformance', kind });
    const sinks = [false, true].map((keepPartial) => runCases(sinkCases(() => subject(store, `sink-${crypto.randomUUID()}`, keepPartial))));
    const written = `source-${crypto.randomUUID()}`;
    const sink = await createStoreSink(store, written, { fingerprint: JOB, shardSize: 1000 });
    await write(sink);
    await sink.close();
    const sources = runCases(sourceCases(async () => ({ source: await openSource(store, written) })));
    return (await Promise.all([...sinks, sources])).flat();
  },

  /** Reserves, writes a part, commits it, and stays. */
  async begin(kind: Kind, name: string): Promise<void> {
    const store = await openBrowserStore({ kind });
    const sink = await createStoreSink(store, name, { fingerprint: JOB });
    held.push(sink);
    await sink.reserve(specs(), {});
    const [first, second] = [...specs()];
    await sink.write(first![0], 0, first![1].data);
    await sink.commit('first', { of: 'first' });
    await sink.write(second![0], 0, second![1].data.slice(0, 100));
  },

  /** Goes on with what `begin` left, in a new run, and finishes it. */
  async resume(kind: Kind, name: string): Promise<readonly string[]> {
    const store = await openBrowserStore({ kind });
    const sink = await createStoreSink(store, name, { fingerprint: JOB, resume: true, keepPartial: true });
    const done = [...sink.done.keys()];
    await sink.reserve(specs(), {});
    const [first] = specs().keys();
    for (const [tensor, { data }] of specs()) if (!(done.includes('first') && tensor === first)) await sink.write(tensor, 0, data);
    await sink.writeFile('config.json', new TextEncoder().encode('{}'));
    await sink.close();
    return done;
  },

  async save(kind: Kind, name: string, options: { overwrite?: boolean } = {}): Promise<void> {
    const sink = await createStoreSink(await openBrowserStore({ kind }), name, { fingerprint: JOB, ...options });
    try {
      await write(sink);
      await sink.close();
    } finally {
      await sink[Symbol.asyncDispose]();
    }
  },

  /** The same tensors, as far as their bytes are read back. */
  async check(kind: Kind, name: string): Promise<readonly string[]> {
    const store = await openBrowserStore({ kind });
    const outcomes = await runCases(sourceCases(async () => ({ source: await openSource(store, name) })));
    return outcomes.filter(({ outcome }) => outcome !== 'passed').map(({ name, reason }) => `${name}: ${reason}`);
  },

  /** Opens a model and keeps it open. */
  async read(kind: Kind, name: string): Promise<void> {
    held.push(await (await openBrowserStore({ kind })).folder(name));
  },

  async models(kind: Kind) {
    return (await openBrowserStore({ kind })).models();
  },

  async remove(kind: Kind, name: string): Promise<void> {
    await (await openBrowserStore({ kind })).remove(name);
  },

  /** Needs this many bytes more than there are; all zeros, never written. */
  async reserve(kind: Kind, name: string, bytes: number): Promise<void> {
    const sink = await createStoreSink(await openBrowserStore({ kind }), name, { fingerprint: JOB });
    try {
      await sink.reserve(new Map([['large', { dtype: 'u8' as const, shape: [bytes] }]]), {});
    } finally {
      await sink[Symbol.asyncDispose]();
    }
  },

  /** Quantizes the model at an address into the store; digests of what was written. */
  async quantize(kind: Kind, name: string, url: string, files: Record<string, number>): Promise<Record<string, string>> {
    const store = await openBrowserStore({ kind });
    const checkpoint = await openCheckpoint(urlFolder(url, { files }));
    try {
      await quantizeCheckpoint(checkpoint, { store, out: name, quantizer: hqq({ bits: 4 }), adapters: [llama] });
    } finally {
      await checkpoint[Symbol.asyncDispose]();
    }
    return digests(store, name);
  },
};

export type Commands = typeof commands;

export interface Reply {
  readonly value?: unknown;
  readonly error?: { readonly code: string; readonly message: string; readonly hint?: string; readonly details?: unknown };
}

export async function runCommand(name: keyof Commands, args: readonly unknown[]): Promise<Reply> {
  try {
    return { value: await (commands[name] as (...args: readonly unknown[]) => Promise<unknown>)(...args) };
  } catch (error) {
    const { code = 'none', message, hint, details } = error as { code?: string; message: string; hint?: string; details?: unknown };
    return { error: { code, message, ...(hint === undefined ? {} : { hint }), details } };
  }
}

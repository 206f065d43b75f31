// Flags that say where a model runs, and the runtime that follows from them.

import { type Backend, createRuntime, isLowbitError, LowbitError, type Runtime } from '@lowbit/core';
import { type HqqBits, hqq } from '@lowbit/hqq';
import type { ProgramRuntime } from '@lowbit/models';
import { type BackendSettings, findBackends } from '../backends.ts';
import type { Context } from '../context.ts';
import { UsageError } from '../errors.ts';
import { inFlags } from '../in-flags.ts';
import type { LoadModelOptions } from '../load-model.ts';
import { findPlugins, type PluginParts } from '../method-plugin.ts';
import { type BackendUse, type Doing, noteOf, useOf, watchRuntime } from '../running-on.ts';

export interface BackendFlags {
  readonly backend?: string | undefined;
  readonly threads?: number | undefined;
  readonly precision?: 'exact' | 'fast' | undefined;
  readonly isa?: string | undefined;
  readonly weightMemory?: number | undefined;
  readonly offloadMeta?: boolean | undefined;
  readonly headBits?: HqqBits | undefined;
  readonly allowNonFinite?: boolean | undefined;
  /** Modules of methods. */
  readonly plugin?: readonly string[] | undefined;
}

/** What the flags say of loading a model: what quantizes its output layer meanwhile, and whether NaN is taken as it is. */
export function headOf({
  headBits,
  allowNonFinite,
}: Pick<BackendFlags, 'headBits' | 'allowNonFinite'>): Pick<LoadModelOptions, 'head' | 'allowNonFinite'> {
  return { ...(headBits === undefined ? {} : { head: hqq({ bits: headBits }) }), ...(allowNonFinite ? { allowNonFinite } : {}) };
}

/** The same of commands that load one model and run it: also what of it stays on the host. */
export function loadingOf(
  flags: Pick<BackendFlags, 'headBits' | 'allowNonFinite' | 'offloadMeta'>,
): Pick<LoadModelOptions, 'head' | 'allowNonFinite' | 'offloadMeta'> {
  return { ...headOf(flags), ...(flags.offloadMeta ? { offloadMeta: true } : {}) };
}

export interface OpenBackend extends AsyncDisposable {
  readonly runtime: Runtime & ProgramRuntime;
  /** For opening folders of methods that plug-ins bring. */
  readonly plugins: PluginParts;
  /** The backend of the last model that was loaded; before that the first that is available. */
  used(): BackendUse;
}

/** Backends whose memory is the host's. */
const OF_THE_HOST: readonly string[] = ['auto', 'cpu', 'reference'];

/** Throws a UsageError for settings of the native backend without it, and for those of a GPU where there is none. */
export function checkBackendFlags({ backend = 'auto', threads, precision, isa, weightMemory, offloadMeta }: BackendFlags): void {
  if (OF_THE_HOST.includes(backend) && (weightMemory !== undefined || offloadMeta)) {
    throw new UsageError(
      `${weightMemory === undefined ? '--offload-meta' : '--weight-memory'} is not for --backend ${backend}`,
      'What runs there reads weights where they are, in memory of the host. Leave the flag out, or choose a backend with memory of its own: --backend @lowbit/kernels-cuda.',
    );
  }
  if (backend === 'reference') {
    const given = threads !== undefined ? '--threads' : precision !== undefined ? '--precision' : isa === undefined ? undefined : '--isa';
    if (given) {
      throw new UsageError(
        `${given} is not for --backend reference`,
        'It is plain TypeScript, exact, on one thread. Leave the flag out, or choose --backend cpu.',
      );
    }
  }
  if (isa !== undefined && backend === 'auto') {
    throw new UsageError('--isa needs --backend cpu', 'It names instructions of the native backend, which auto may have to do without.');
  }
}

/**
 * A runtime as the flags say. A backend that has to be passed over is a remark, once.
 * Throws ERR_BACKEND_UNAVAILABLE where none can be had, and what `findBackends` throws.
 */
export async function openBackend(
  flags: BackendFlags,
  context: Pick<Context, 'note'>,
  { doing }: { readonly doing?: Doing } = {},
): Promise<OpenBackend> {
  const { backend: choice = 'auto', threads, precision, isa, weightMemory } = flags;
  const onProblem = ({ message }: LowbitError): void => context.note(`${message}. LOWBIT_CACHE names another folder, or is off.`);
  const settings = { threads, precision, isa, weightMemory } as BackendSettings; // an isa that there is not is refused there
  const backends = await findBackends(choice, { ...settings, onProblem }).catch((error: unknown) => {
    // Of the native backend only the flags can be wrong.
    if (choice !== 'cpu' || !isLowbitError(error, 'ERR_BAD_ARGUMENT')) throw error;
    throw new UsageError(inFlags(error.message), error.hint === undefined ? undefined : inFlags(error.hint));
  });
  const plugins = await findPlugins(flags.plugin);
  const runtime = await withWayOut(choice, createRuntime({ backends, codecs: plugins.codecs }));
  let last: BackendUse;
  let said: string | undefined;
  const tell = (use: BackendUse): void => {
    last = use;
    const note = noteOf(use, doing);
    const more = choice === 'auto' && use.why?.startsWith('cpu is not available') ? ' --backend cpu says where it was looked for.' : '';
    if (note !== undefined && note !== said) context.note(note + more);
    said = note;
  };
  try {
    const first = await useOf(runtime);
    if (flags.offloadMeta) checkOffloads(await runtime.backend(first.name));
    tell(first);
  } catch (error) {
    await runtime[Symbol.asyncDispose]();
    throw error;
  }
  const watched = watchRuntime(runtime, tell);
  return {
    runtime: { ...watched, load: (...args) => withWayOut(choice, watched.load(...args)) },
    plugins,
    used: () => last,
    [Symbol.asyncDispose]: () => runtime[Symbol.asyncDispose](),
  };
}

/** Throws ERR_BAD_ARGUMENT for a backend that holds scales and zeros of a weight with its codes. */
function checkOffloads(backend: Pick<Backend, 'name' | 'supports'>): void {
  const format = hqq().format([64, 64], 'f16');
  const bytes = (offloadMeta: boolean): number => {
    const support = backend.supports({ format, shape: [64, 64], use: 'linear', offloadMeta });
    return support.level === 'none' ? 0 : support.bytes;
  };
  if (bytes(true) < bytes(false)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `--offload-meta: the backend ${backend.name} keeps scales and zeros with their codes`, {
    hint: 'Leave the flag out, or choose a backend that keeps them on the host: --backend @lowbit/kernels-cuda.',
    details: { backend: backend.name },
  });
}

/** Hints of the library speak of functions; here it is a flag that helps. */
async function withWayOut<T>(choice: string, result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    // With its table of backends: files that nothing reads are another matter.
    if (choice === 'auto' || choice === 'reference' || !isLowbitError(error) || error.details.explanation === undefined) throw error;
    const first = choice === 'cpu' && error.code === 'ERR_BACKEND_UNAVAILABLE' ? 'Follow one of the remedies, or use' : 'Use';
    throw new LowbitError(error.code, error.message, {
      hint: `${first} --backend auto, which takes ${choice === 'cpu' ? '' : 'native code, or '}plain TypeScript, slowly, where ${choice === 'cpu' ? 'native code' : 'that'} cannot be had.`,
      details: error.details,
      cause: error,
    });
  }
}

// Where models run: a runtime that tells, after each program it loads, which backend took it, and why not the one that was preferred.

import {
  type BackendProvider,
  type BackendReport,
  checkRuntime,
  createRuntime,
  type FormatCodec,
  formatLabel,
  type Runtime,
} from '@lowbit/core';
import { type LoadedProgram, loadProgram, type ProgramRuntime } from '@lowbit/models';
import { findBackends } from './backends.ts';

/** The backend that something ran on. */
export interface BackendUse {
  readonly name: string;
  /** Its device, as it calls it. */
  readonly device: string;
  /** Why it is not the first of those that were to be tried; null if it is. */
  readonly why: string | null;
}

/** What every function that runs a model takes. */
export interface RunsOn {
  /** Where the model runs; stays the caller's to dispose. Default: a runtime of its own over `backends`, disposed in the end. */
  readonly runtime?: Runtime | undefined;
  /** Backends in order of preference, where no `runtime` is given. Default: those of `findBackends()`, the native one and the reference. */
  readonly backends?: readonly BackendProvider[] | undefined;
  /** Called with remarks in sentences, such as that the native backend cannot be used and why. */
  readonly onNote?: ((note: string) => void) | undefined;
}

/** What is done on a backend: a model runs there, or it is only told what one would take there. */
export type Doing = 'running' | 'estimating';

/** A remark about a backend that had to be passed over; undefined where none was. */
export function noteOf({ name, why }: BackendUse, doing: Doing = 'running'): string | undefined {
  if (why === null) return undefined;
  const plain = name === 'reference';
  if (doing === 'estimating') return `${why}; the estimate is for ${plain ? 'plain TypeScript' : name}.`;
  return `${why}; ${plain ? 'running in plain TypeScript, slowly' : `running on ${name}`}.`;
}

interface RuntimeInUse extends AsyncDisposable {
  readonly runtime: Runtime;
}

/** The caller's runtime, or one of our own, which is disposed with the result. */
export async function runtimeOf({ runtime, backends, onNote }: RunsOn, codecs: readonly FormatCodec[] = []): Promise<RuntimeInUse> {
  if (runtime) {
    checkRuntime(runtime, ['select', 'backend']);
    return { runtime, [Symbol.asyncDispose]: async () => {} };
  }
  const own = await createRuntime({ backends: backends ?? (await findBackends()), codecs });
  const notes = new Set<string>();
  const watched = watchRuntime(own, (use) => {
    const note = noteOf(use);
    if (note === undefined || notes.has(note)) return;
    notes.add(note);
    onNote?.(note);
  });
  return { runtime: watched, [Symbol.asyncDispose]: async () => own[Symbol.asyncDispose]() };
}

/** The same runtime, which calls `onUse` after each program it has loaded. */
export function watchRuntime(runtime: Runtime, onUse: (use: BackendUse) => void): Runtime & Required<ProgramRuntime> {
  return {
    codecs: runtime.codecs,
    allowDequant: runtime.allowDequant,
    backends: runtime.backends,
    backend: (name) => runtime.backend(name),
    explain: (linears, program) => runtime.explain(linears, program),
    select: (linears, program) => runtime.select(linears, program),
    linear: (weight, options) => runtime.linear(weight, options),
    routine: (name) => runtime.routine(name),
    async load(program, loadWeight, options) {
      const loaded = await loadProgram(runtime, program, loadWeight, options);
      try {
        onUse(await useOf(runtime, loaded));
      } catch (error) {
        await loaded[Symbol.asyncDispose]();
        throw error;
      }
      return loaded;
    },
    [Symbol.asyncDispose]: () => runtime[Symbol.asyncDispose](),
  };
}

/** The backend of a loaded program; without one, the first that is available. */
export async function useOf(runtime: Runtime, loaded?: LoadedProgram): Promise<BackendUse> {
  const names = [...new Set(loaded?.backends)];
  const { name, device } = await runtime.backend(names[0]);
  const first = runtime.backends[0];
  // Across a cut the caller said what runs where.
  if (name === first || names.length > 1) return { name: names.join(', ') || name, device: device.label, why: null };
  const linears = loaded?.program.linears.map(({ use }, i) => ({
    use,
    format: loaded.linears[i]!.format,
    shape: loaded.linears[i]!.shape,
  }));
  const [report] = await runtime.explain(linears ?? [], loaded?.program);
  return { name, device: device.label, why: whyNot(report!) };
}

/** What keeps a backend from a program, in one line. */
function whyNot({ backend, available, detail, missingOps, linears }: BackendReport): string {
  if (!available) {
    // Of a search in several places the first line says that it failed, and the others where.
    const [summary = '', ...places] = detail.split('\n').map((line) => line.trim());
    const only = places.length === 1 ? ` ${places[0]!.replace(/\.$/, '')}` : '';
    return `${backend} is not available: ${only === '' ? summary.replace(/:$/, '') : summary}${only}`;
  }
  if (missingOps.length > 0) return `${backend} does not run ${missingOps.join(', ')}`;
  const refused = linears.find(({ usable }) => !usable);
  if (!refused) return `${backend} was not chosen`;
  const { request, support } = refused;
  const reason = support.level === 'none' ? support.reason : 'only by expanding the weight to floats';
  return `${backend} does not take ${formatLabel(request.format)} [${request.shape.join(', ')}]: ${reason}`;
}

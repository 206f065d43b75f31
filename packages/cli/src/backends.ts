// Which backends a word names: the native one, the reference, or those of a module that somebody else wrote.

import { type BackendProvider, LowbitError, referenceBackend } from '@lowbit/core';
import type { CpuOptions } from '@lowbit/kernels-cpu';
import { backendOfModule } from './backend-module.ts';
import { checkedOptions } from './checked-options.ts';

/** How native code is had where it is not. */
export const NATIVE_REMEDY =
  'Native code runs models many times as fast: install @lowbit/kernels-cpu with a package for this platform, or build it in a clone.';

/** Settings of backends that have them: the native one, and modules that export a function. */
export interface BackendSettings extends Pick<CpuOptions, 'threads' | 'precision' | 'isa'> {
  /** Bytes of the device's memory for weights: of backends that have memory of their own. */
  readonly weightMemory?: number;
}

export interface FindBackendsOptions extends BackendSettings {
  /** Folder that paths and names of packages are looked up from; default the current one. */
  readonly from?: string;
  /** Called when the native backend cannot keep or read packed weights; it goes on without. Default: a warning of the process. */
  readonly onProblem?: (problem: LowbitError) => void;
}

/**
 * The backends of a choice, in order of preference, for `createRuntime` and `loadModel`:
 *
 * - `auto`: the native CPU backend, and after it the reference, for machines where the addon cannot be loaded and formats that it does not take
 * - `cpu` (native) or `reference`: that one alone
 * - anything else: a path such as `./my-backend.mjs` or the name of an installed package, whose default export, or export `backend`, is a
 *   `BackendProvider` or a function that makes one of the settings given. The module is executed.
 *
 * Nothing is probed yet. Throws ERR_BAD_ARGUMENT (a setting that the backend does not have, an export that is no backend), ERR_NOT_FOUND (no such module),
 * ERR_BACKEND_UNAVAILABLE (a module that fails while it is loaded).
 *
 * @example
 * const model = await loadModel('./model-hqq4', { backends: await findBackends('cpu', { threads: 2 }) });
 */
export async function findBackends(choice = 'auto', options: FindBackendsOptions = {}): Promise<readonly BackendProvider[]> {
  if (typeof choice !== 'string')
    throw new LowbitError('ERR_BAD_ARGUMENT', 'findBackends needs a word', {
      hint: "Pass 'auto', 'cpu', 'reference', a path or a package.",
    });
  const { from = process.cwd(), onProblem, ...given } = checkedOptions('findBackends', options);
  const settings = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as BackendSettings;
  if (choice === 'auto') return [await native(settings, onProblem), referenceBackend()];
  if (choice === 'cpu') return [await native(settings, onProblem)];
  if (choice !== 'reference') return [await backendOfModule(choice, settings, from)];
  const [setting] = Object.keys(settings);
  if (setting === undefined) return [referenceBackend()];
  throw new LowbitError('ERR_BAD_ARGUMENT', `the reference backend has no setting ${setting}`, {
    hint: 'It is plain TypeScript on one thread. Leave the setting out, or choose cpu.',
    details: { setting },
  });
}

/** Imported when it is wanted: what runs no model, and whoever chose another backend, needs none of it. */
async function native(settings: BackendSettings, onProblem: FindBackendsOptions['onProblem']): Promise<BackendProvider> {
  const { cpu } = await import('@lowbit/kernels-cpu');
  const tells = onProblem !== undefined && process.env.LOWBIT_CACHE !== 'off';
  return cpu({ ...settings, ...(tells ? { cache: { onProblem } } : {}) });
}

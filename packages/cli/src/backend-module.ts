// A backend of a third party: a module named by its path or its package, looked up where the user stands, not where lowbit is installed.

import { type BackendProvider, LowbitError } from '@lowbit/core';
import type { BackendSettings } from './backends.ts';
import { importModule } from './module-file.ts';

type Factory = (settings: BackendSettings) => BackendProvider | Promise<BackendProvider>;

const HINT = 'A backend is auto, cpu, reference, a path such as ./my-backend.mjs, or the name of an installed package.';

/** Packages of this project, by what people call their backends. */
const OWN: ReadonlyMap<string, string> = new Map([
  ['webgpu', '@lowbit/kernels-webgpu'],
  ['cuda', '@lowbit/kernels-cuda'],
]);

/** Imports the module and gives its backend. Throws as `findBackends` says. */
export async function backendOfModule(name: string, settings: BackendSettings, from: string): Promise<BackendProvider> {
  const details = { backend: name, from };
  const exported = await importModule(name, from, { what: 'backend', hint: HINT, broken: 'ERR_BACKEND_UNAVAILABLE', own: OWN });
  const found = exported.find((value) => isProvider(value) || typeof value === 'function');
  const [setting] = Object.keys(settings);
  if (isProvider(found)) {
    if (setting === undefined) return found;
    throw new LowbitError('ERR_BAD_ARGUMENT', `backend ${name} is exported as it is, and takes no setting ${setting}`, {
      hint: 'Leave the setting out, or let the module export a function of the settings.',
      details: { ...details, setting },
    });
  }
  const made: unknown = typeof found === 'function' ? await (found as Factory)(settings) : undefined;
  if (isProvider(made)) return made;
  throw new LowbitError('ERR_BAD_ARGUMENT', `${name} ${found === undefined ? 'exports' : 'makes'} no backend`, {
    hint: 'Its default export, or the export `backend`, is to be a BackendProvider (spec 1, name, probe, open) or a function that returns one.',
    details,
  });
}

function isProvider(value: unknown): value is BackendProvider {
  const { spec, name, probe, open } = (typeof value === 'object' && value !== null ? value : {}) as Partial<Record<string, unknown>>;
  return spec === 1 && typeof name === 'string' && name !== '' && typeof probe === 'function' && typeof open === 'function';
}

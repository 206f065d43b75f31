// The one place where backends are listed, best first: the first that is available and runs the model is taken.

import { type BackendProvider, referenceBackend } from '@lowbit/core';
import { webgpu } from '@lowbit/kernels-webgpu';

/** What models may run on, by the page's address: `?run=gpu`. */
export const RUN_ON = {
  any: () => [webgpu(), referenceBackend()],
  /** Nothing takes the place of a GPU that is not there, or is lost. */
  gpu: () => [webgpu()],
  /** As `any`, and adapters that compute on the CPU will do. Slower than plain TypeScript for small models; tests run on one. */
  'software-gpu': () => [webgpu({ software: true }), referenceBackend()],
  plain: () => [referenceBackend()],
} as const satisfies Readonly<Record<string, () => readonly BackendProvider[]>>;

type RunOn = keyof typeof RUN_ON;

/** What the query of an address asks for; `any` where it asks for nothing that is known. */
export function runOn(query: string): RunOn {
  const wanted = new URLSearchParams(query).get('run') ?? 'any';
  return Object.hasOwn(RUN_ON, wanted) ? (wanted as RunOn) : 'any';
}

// The one place where backends are listed, best first: the first that is available and runs the model is taken.

import { type BackendProvider, referenceBackend } from '@lowbit/core';
import { webgpu } from '@lowbit/kernels-webgpu';

export function backends(): readonly BackendProvider[] {
  return [webgpu(), referenceBackend()];
}

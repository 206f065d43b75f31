import type { ModelAdapter } from '@lowbit/core';
import { llama } from './llama.ts';

/** The adapters that come with this package. */
export const defaultAdapters: readonly ModelAdapter[] = [llama];

// The layouts of this package.

import type { CheckpointLayout } from '@lowbit/core';
import { bitsAndBytesLayout } from './bitsandbytes.ts';
import { higgsLayout } from './higgs.ts';
import { hqqLayout } from './hqq.ts';
import { hqqNestedLayout } from './hqq-nested.ts';
import { hqqSafetensorsLayout } from './hqq-safetensors.ts';
import { mixedLayout } from './mixed.ts';

/** Layouts that every checkpoint is tried with, and of which the first that stores everything is written. */
export const BUILTIN_LAYOUTS: readonly CheckpointLayout[] = [
  hqqLayout,
  hqqSafetensorsLayout,
  hqqNestedLayout,
  bitsAndBytesLayout,
  higgsLayout,
  mixedLayout, // last: what one method makes is stored in its own layout, which others read
];

import { BUILTIN_CODECS } from '@lowbit/core';
import { describe, it } from 'vitest';
import { codecConformance } from './codec.ts';
import { formatSamples } from './formats.ts';

for (const codec of BUILTIN_CODECS) {
  codecConformance(
    codec,
    formatSamples().filter(({ weight }) => weight.format.kind === codec.kind),
    { describe, it },
  );
}

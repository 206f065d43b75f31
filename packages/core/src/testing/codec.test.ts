import { describe, it } from 'vitest';
import { BUILTIN_CODECS } from '../codecs/index.ts';
import { codecConformance, formatSamples } from './index.ts';

for (const codec of BUILTIN_CODECS) {
  codecConformance(
    codec,
    formatSamples().filter(({ weight }) => weight.format.kind === codec.kind),
    { describe, it },
  );
}

import { referenceBackend } from '@lowbit/core';
import { describe, it } from 'vitest';
import { backendConformance } from './backend.ts';

backendConformance(referenceBackend(), { describe, it }, { tolerances: { batch: 0, dequantize: 0 }, giant: [4099, 128] });

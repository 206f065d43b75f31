import { describe, it } from 'vitest';
import { referenceBackend } from '../reference/index.ts';
import { backendConformance } from './index.ts';

backendConformance(referenceBackend(), { describe, it }, { tolerances: { batch: 0, dequantize: 0 }, giant: [4099, 128] });

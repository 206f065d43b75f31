import { sampleTensors, sourceConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { memorySource } from './memory.ts';

sourceConformance('memory', async () => ({ source: memorySource(sampleTensors()) }), { describe, it });

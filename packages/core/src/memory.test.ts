import { sampleTensors, sinkConformance, sourceConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { memorySink, memorySource } from './memory.ts';

sourceConformance('memory', async () => ({ source: memorySource(sampleTensors()) }), { describe, it });

sinkConformance(
  'memory',
  async () => {
    const sink = memorySink();
    const closed = { yes: false };
    const { close } = sink;
    return {
      sink: {
        ...sink,
        async close() {
          await close();
          closed.yes = true;
        },
      },
      open: async () => memorySource(closed.yes ? Object.fromEntries(sink.tensors) : {}),
    };
  },
  { describe, it },
);

import { memorySource } from '@lowbit/core';
import { sinkConformance } from '@lowbit/testing';
import { describe, it } from 'vitest';
import { memorySink } from './memory-sink.ts';

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

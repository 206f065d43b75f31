// Memory of one GPU for tensors.

import type { DeviceMemory } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer } from './gpu.ts';

export interface TensorMemory {
  readonly buffer: GpuBuffer;
  /** Rejects where there was no memory. */
  readonly settled: Promise<void>;
}

export function deviceMemory(machine: Machine): DeviceMemory<TensorMemory> {
  return {
    take(bytes) {
      const { made: buffer, settled } = machine.claim('a tensor', bytes, () => machine.storage(bytes, 'a tensor'));
      return { buffer, settled };
    },
    give: ({ buffer }) => machine.release(buffer),
    write: ({ buffer }, data) => machine.write(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
    async read({ buffer, settled }, bytes) {
      const staging = machine.staging(bytes);
      try {
        return await machine.run(async () => {
          await settled;
          const encoder = machine.device.createCommandEncoder();
          encoder.copyBufferToBuffer(buffer, 0, staging, 0, staging.size);
          machine.submit([encoder.finish()]);
          return machine.take(staging, bytes);
        });
      } finally {
        machine.release(staging);
      }
    },
  };
}

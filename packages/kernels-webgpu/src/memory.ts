// Memory of one GPU for tensors.

import type { DeviceMemory } from '@lowbit/core';
import type { Machine } from './device.ts';
import type { GpuBuffer } from './gpu.ts';

export interface TensorMemory {
  readonly buffer: GpuBuffer;
  /** Rejects where there was no memory. */
  readonly taken: Promise<void>;
  /** Rejects where what was to fill it last could not be done. */
  filled: Promise<void>;
}

/** `taken`, then `filled`: rejects where the numbers in it are not what they should be. */
export async function whole({ taken, filled }: TensorMemory): Promise<void> {
  await taken;
  await filled;
}

export function deviceMemory(machine: Machine): DeviceMemory<TensorMemory> {
  return {
    take(bytes) {
      const { made: buffer, settled: taken } = machine.claim('a tensor', () => machine.storage(bytes, 'a tensor'));
      return { buffer, taken, filled: Promise.resolve() };
    },
    give: ({ buffer }) => machine.release(buffer),
    write(memory, data) {
      const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      memory.filled = machine.claim('a tensor', () => machine.write(memory.buffer, 0, bytes)).settled;
    },
    async read(memory, bytes) {
      const { buffer } = memory;
      const { made: staging, settled } = machine.claim('a copy for the host', () => machine.staging(bytes));
      try {
        return await machine.run(async () => {
          await whole(memory);
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

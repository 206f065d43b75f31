// Memory of one GPU for tensors.

import type { DeviceMemory } from '@lowbit/core';
import type { BufferHandle, CudaBinding, DeviceHandle } from './binding.ts';
import { deviceError, native } from './errors.ts';

export function deviceMemory(binding: CudaBinding, device: DeviceHandle): DeviceMemory<BufferHandle> {
  return {
    take: (bytes) => native(() => binding.createBuffer(device, bytes, false)),
    give: (buffer) => binding.freeBuffer(buffer),
    write: (buffer, data) => native(() => binding.writeBuffer(buffer, 0, new Uint8Array(data.buffer, data.byteOffset, data.byteLength))),
    async read(buffer, bytes) {
      const data = new Uint8Array(bytes);
      try {
        await binding.readBuffer(buffer, 0, data);
      } catch (error) {
        throw deviceError(error);
      }
      return data;
    },
  };
}

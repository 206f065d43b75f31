// What a computation could have at most.

import { totalmem } from 'node:os';

/** Bytes of memory of this machine, or of the container that the process is in. */
export function machineMemory(): number {
  const bound = process.constrainedMemory();
  return bound > 0 ? Math.min(bound, totalmem()) : totalmem();
}

// What a program would take: it is lowered for weights of which only the size is known, and its caches grow in memory that is not there.

import { type Program, planStep, readDemands, SequenceTable, type StepBytes, type StepSize } from '@lowbit/core';
import { measuredStep } from '@lowbit/program';
import type { BufferHandle, CudaBinding, DeviceHandle, StoredFloat } from './binding.ts';
import { type CacheMemory, Caches } from './caches.ts';
import { expertsOfRow, rowsOf } from './executable.ts';
import type { PlaneCount } from './gemm.ts';
import { HEADER_BYTES, type WeightLayout } from './layout.ts';
import { lowerProgram } from './lower.ts';
import { stepBlock } from './step-block.ts';

/** Handles without memory: counts bytes, and how many there were at most. */
class Nowhere implements CacheMemory {
  bytes = 0;
  most = 0;
  readonly #sizes: number[] = [];

  createBuffer(_: unknown, bytes: number): BufferHandle {
    this.bytes += bytes;
    this.most = Math.max(this.most, this.bytes);
    return (this.#sizes.push(bytes) - 1) as BufferHandle;
  }

  freeBuffer(buffer: BufferHandle): void {
    this.bytes -= this.#sizes[buffer]!;
  }

  bufferAddress(): bigint {
    return 0n;
  }

  copyBuffer(): void {}
}

interface MeasureSettings {
  readonly binding: Pick<CudaBinding, 'measurePlan'>;
  readonly kvDtype: StoredFloat;
  readonly fuse: boolean;
  readonly planes: PlaneCount;
}

/** Of texts that come to `contextLength` tokens in steps of that size. The program is valid, and its linears have those layouts, and so many bytes on the host. */
export function measureProgram(
  program: Program,
  linears: readonly { readonly layout: WeightLayout; readonly hostBytes: number }[],
  size: StepSize,
  { binding, kvDtype, fuse, planes }: MeasureSettings,
): StepBytes {
  const memory = new Nowhere();
  const device = 0 as DeviceHandle; // never asked
  const weights = linears.map(({ layout, hostBytes }) => {
    const buffer = memory.createBuffer(device, 0);
    return {
      layout,
      buffer,
      hostPart: hostBytes > 0 ? { buffer, bytes: hostBytes, header: () => new Uint8Array(HEADER_BYTES) } : undefined,
    };
  });
  const { spec, named } = lowerProgram(program, weights, {
    ...{ kvDtype, fuse, planes },
    addressOf: () => memory.bufferAddress(),
    room: (bytes) => memory.createBuffer(device, bytes),
    constant: ({ byteLength }) => memory.createBuffer(device, byteLength),
  });
  const constants = memory.bytes;
  const { contextLength, sequences } = size;
  const demands = readDemands(program, contextLength);
  const topK = expertsOfRow(program);
  const caches = new Caches(memory, device, program.caches, kvDtype);
  const table = new SequenceTable<{ length: number; remembers: boolean; readonly caches: ReturnType<Caches['open']> }>(sequences);
  const ids = Array.from({ length: sequences }, () => table.add(() => ({ length: 0, remembers: false, caches: caches.open() })));
  let most = constants;
  let [scratch, kept] = [0, 0];
  // The texts grow as they would, and their caches with them. Steps that find room take nothing new.
  for (let at = 0; at < contextLength; ) {
    const tokens = Math.min(size.tokens, contextLength - at);
    const now = { ...size, tokens, outputs: Math.min(size.outputs, tokens), encoder: at === 0 ? size.encoder : 0 };
    const plan = planStep(
      ids.map((id) => measuredStep(program, id, now)),
      table,
      demands,
    );
    memory.most = memory.bytes;
    const views = plan.shares.map(({ sequence, tokens: { count }, encoder }) =>
      caches.extend(sequence.caches, { length: sequence.length, tokens: count, encoder: encoder.count, limit: contextLength }),
    );
    // Caches come first, beside what the step before left.
    most = Math.max(most, memory.most + kept);
    // The first step brings most.
    if (at === 0) {
      const block = stepBlock({ plan, ropes: program.ropes, named, caches: views });
      ({ scratch, kept } = binding.measurePlan(spec.widths, rowsOf(plan, topK), block.byteLength));
    }
    most = Math.max(most, memory.bytes + scratch);
    const room = Math.min(contextLength, ...plan.shares.map(({ sequence }) => caches.room(sequence.caches)));
    const next = Math.max(at + tokens, Math.floor(room / size.tokens) * size.tokens);
    for (const { sequence, encoder } of plan.shares) {
      sequence.length = next;
      sequence.remembers ||= encoder.count > 0;
      caches.remember(sequence.caches, encoder.count);
    }
    at = next;
  }
  return { constants, scratch: most - memory.bytes, kept, cache: caches.bytes };
}

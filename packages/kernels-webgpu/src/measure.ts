// What a program would take, by taking it on a machine that holds nothing: buffers are as large, and as limited, as they would be.

import { DEFAULT_MAX_SEQUENCES, type LinearRequest, type LowbitError, type Program, type StepBytes, type StepSize } from '@lowbit/core';
import { measuredStep } from '@lowbit/program';
import { Machine } from './device.ts';
import { WebGpuExecutable } from './executable.ts';
import { ExpertMoves } from './experts.ts';
import type { GpuBuffer, GpuDevice, GpuOpaque } from './gpu.ts';
import type { HeldPiece } from './launches.ts';
import type { StoredFloat, WeightLayout } from './layout.ts';
import { WebGpuLinear } from './linear.ts';
import { lowerProgram } from './lower.ts';
import { takeWeight } from './prepare.ts';

/** Counts as the machine that it stands for would, and goes on where that would refuse a buffer. */
class PlanningMachine extends Machine {
  /** The first buffer that was too large. */
  refused: LowbitError | undefined;

  constructor({ device, label, limits }: Machine) {
    super(nowhere(device), label, { binding: limits.binding, own: false });
  }

  protected override refuse(error: LowbitError): void {
    this.refused ??= error;
  }
}

const never = (): never => {
  throw new Error('nothing runs while a program is measured');
};

/** A device with the limits of another, where nothing is and nothing runs. */
function nowhere({ limits, features }: GpuDevice): GpuDevice {
  const opaque = (): GpuOpaque => ({});
  const buffer = (size: number): GpuBuffer => ({ size, destroy: () => {}, mapAsync: never, getMappedRange: never, unmap: never });
  return {
    ...{ limits, features, lost: new Promise(() => {}) },
    queue: { submit: () => {}, writeBuffer: () => {}, onSubmittedWorkDone: never },
    destroy: () => {},
    createBuffer: ({ size }) => buffer(size),
    createShaderModule: never,
    createComputePipeline: never,
    createComputePipelineAsync: never,
    createPipelineLayout: never,
    createBindGroupLayout: opaque,
    createBindGroup: opaque,
    createCommandEncoder: () => ({ beginComputePass: never, copyBufferToBuffer: () => {}, finish: opaque }),
    pushErrorScope: () => {},
    popErrorScope: async () => null,
  };
}

interface MeasureSettings {
  readonly machine: Machine;
  readonly kvDtype: StoredFloat;
  readonly layoutOf: (request: LinearRequest) => WeightLayout;
}

/** Of texts that come to `contextLength` tokens in steps of that size. The program is valid and the linears fit it. */
export function measureProgram(
  program: Program,
  requests: readonly LinearRequest[],
  size: StepSize,
  { machine: real, kvDtype, layoutOf }: MeasureSettings,
): StepBytes {
  const machine = new PlanningMachine(real);
  const { counts } = machine;
  const owner = 'a program that is measured';
  const home = { owner, machine, kvDtype, release: () => {}, floats: never };
  const linears = requests.map((request, i) => {
    const bias = program.linears[i]!.bias !== undefined;
    const layout = layoutOf(request);
    const pieces: HeldPiece[] = [];
    takeWeight(machine, layout, { bias }, pieces);
    return new WebGpuLinear({ layout, bias, pieces }, { ...request, bytes: 0, bias }, home);
  });
  const weights = counts.bytes;
  const { contextLength, sequences } = size;
  const maxSequences = Math.max(sequences, DEFAULT_MAX_SEQUENCES);
  let most = 0;
  using moves = new ExpertMoves(machine, linears);
  for (const op of program.ops) {
    const gathering = op.op === 'expertLinear' ? moves.gather(op.linears) : undefined;
    most = Math.max(most, counts.bytes); // until the experts of an operation have moved they are there twice
    gathering?.commit();
  }
  const { made: executable } = machine.claim(owner, () => {
    const lowered = lowerProgram(program, moves.weights, { kvDtype, banks: (ids) => moves.banks(ids) });
    return new WebGpuExecutable(program, lowered, { contextLength, maxSequences }, home);
  });
  const compiled = counts.bytes;
  const ids = Array.from({ length: sequences }, () => executable.open());
  // The texts grow as they would, and their caches with them. Steps that find room take nothing new.
  for (let at = 0; at < contextLength; ) {
    const tokens = Math.min(size.tokens, contextLength - at);
    const outputs = Math.min(size.outputs, tokens);
    const now = { ...size, tokens, outputs, encoder: at === 0 ? size.encoder : 0 };
    const { bytes, room } = executable.rehearse(
      ids.map((id) => measuredStep(program, id, now)),
      at,
    );
    most = Math.max(most, bytes);
    at = Math.max(at + tokens, Math.floor(Math.min(room, contextLength) / size.tokens) * size.tokens);
  }
  const { cache } = executable.memory();
  const beside = (bytes: number): number => bytes - compiled - cache;
  const { refused } = machine;
  return {
    constants: compiled - weights,
    scratch: Math.max(0, beside(most)),
    kept: beside(counts.bytes),
    cache,
    ...(refused === undefined ? {} : { refused: refused.message }),
  };
}

// What a step reads back: whole rows, or the largest numbers of each row, which the device chooses where that is less.

import { elements, type HostTensor, type OutputRequest, outputsOf, type Program, type StepOutputs } from '@lowbit/core';
import type { PlanRead, RowCounts } from './binding.ts';

/** Numbers of a row that are looked at together: the device keeps the largest of each part before it puts them together. As native/driver/plan.cpp. */
const PART = 2048;

/** Whether the device chooses: not where what it keeps on the way is more than the rows are. */
export function chosenOnDevice({ largest, width }: Pick<OutputRequest, 'largest' | 'width'>): boolean {
  return largest > 0 && 2 * largest * (Math.ceil(width / PART) + 1) <= width;
}

export class Readback {
  readonly reads: readonly PlanRead[];
  readonly #requests: readonly OutputRequest[];
  readonly #chosen = new Map<OutputRequest, Uint8Array<ArrayBuffer>>();
  readonly #whole = new Map<number, Uint8Array<ArrayBuffer>>();
  readonly #program: Pick<Program, 'tensors'>;

  constructor(program: Pick<Program, 'tensors'>, requests: readonly OutputRequest[], rows: RowCounts) {
    this.#program = program;
    this.#requests = requests;
    const counts = { tokens: rows[0], outputs: rows[1], routed: rows[2], encoder: rows[3] };
    const reads: PlanRead[] = [];
    for (const request of requests) {
      const { tensor, width, largest } = request;
      const count = counts[program.tensors[tensor]!.rows];
      if (chosenOnDevice(request)) {
        const out = new Uint8Array(count * largest * 8);
        this.#chosen.set(request, out);
        reads.push({ tensor, out, largest });
      } else if (!this.#whole.has(tensor)) {
        const out = new Uint8Array(count * width * 4);
        this.#whole.set(tensor, out);
        reads.push({ tensor, out });
      }
    }
    this.reads = reads;
  }

  /** When the step has run. */
  outputs(): StepOutputs {
    const outputs: Record<string, HostTensor> = {};
    for (const request of this.#requests) {
      const chosen = this.#chosen.get(request);
      if (chosen === undefined) {
        const { dtype } = this.#program.tensors[request.tensor]!;
        Object.assign(
          outputs,
          outputsOf([request], (tensor) => elements({ dtype, data: this.#whole.get(tensor)! }).slice()),
        );
        continue;
      }
      const half = chosen.byteLength / 2;
      const shape = [half / 4 / request.largest, request.largest];
      outputs[request.name] = { dtype: 'f32', shape, data: chosen.slice(0, half) };
      outputs[`${request.name}.ids`] = { dtype: 'i32', shape, data: chosen.slice(half) };
    }
    return outputs;
  }
}

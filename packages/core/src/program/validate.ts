// The rules of program.ts, checked. A backend may rely on every one of them once this has passed.

import { byteLength } from '../dtype.ts';
import { isLowbitError, LowbitError } from '../spec/errors.ts';
import type { Op, Program } from '../spec/program.ts';
import { inferResult, opInputs, opLinears, opResults } from './infer.ts';

function fail(message: string, details: Readonly<Record<string, unknown>> = {}): never {
  throw new LowbitError('ERR_BAD_ARGUMENT', `unusable program: ${message}`, { details });
}

/** The checks of one operation, its message prefixed with where it is. */
function locate(op: Op, index: number, body: () => void): void {
  try {
    body();
  } catch (error) {
    if (!isLowbitError(error)) throw error;
    throw new LowbitError('ERR_BAD_ARGUMENT', `unusable program: op ${index} (${op.op}): ${error.message}`, {
      details: { ...error.details, op: index, name: op.op },
      cause: error,
    });
  }
}

function checkTables(program: Program): void {
  if (!Number.isInteger(program.layers) || program.layers < 0) fail(`${program.layers} layers`);
  for (const [id, { width }] of program.tensors.entries()) {
    if (!Number.isInteger(width) || width < 1) fail(`tensor ${id} has width ${width}`);
  }
  for (const [id, constant] of program.constants.entries()) {
    if (constant.data.byteLength !== byteLength(constant))
      fail(`constant ${id} has ${constant.data.byteLength} bytes, not ${byteLength(constant)}`);
  }
  for (const [id, use] of program.linears.entries()) {
    if (!use.shape.every((extent) => Number.isInteger(extent) && extent >= 1))
      fail(`linear ${id} (${use.path}) has shape [${use.shape.join(', ')}]`);
    if (!(use.layer >= -1 && use.layer <= program.layers)) fail(`linear ${id} (${use.path}) is in layer ${use.layer} of ${program.layers}`);
    if (use.bias !== undefined) {
      const bias = program.constants[use.bias];
      if (!bias) fail(`linear ${id} (${use.path}): there is no constant ${use.bias}`);
      if (bias.shape.length !== 1 || bias.shape[0] !== use.shape[0]) fail(`linear ${id} (${use.path}): bias is [${bias.shape.join(', ')}]`);
    }
  }
  for (const [id, cache] of program.caches.entries()) {
    if (!(cache.layer >= -1 && cache.layer <= program.layers)) fail(`cache ${id} is in layer ${cache.layer} of ${program.layers}`);
    if (![cache.heads, cache.keyDim, cache.valueDim].every((extent) => Number.isInteger(extent) && extent >= 1))
      fail(`cache ${id} has empty rows`);
  }
}

/**
 * Throws ERR_BAD_ARGUMENT unless the program keeps every rule of program.ts: ids in range, domains and widths consistent, tensors made once and
 * before they are read, operations in layer order, every linear used, every cache filled by exactly
 * one operation, one topK. `details.op` is the operation's index.
 */
export function validateProgram(program: Program): void {
  checkTables(program);
  const made = new Set<number>();
  const filled = new Map<number, number>();
  const experts = new Map<number, number>();
  const inputs = new Set<string>();
  let topK: number | undefined;
  let layer = -1;
  for (const [index, op] of program.ops.entries()) {
    locate(op, index, () => {
      const stop = (message: string): never => {
        throw new LowbitError('ERR_BAD_ARGUMENT', message);
      };
      if (!Number.isInteger(op.layer) || op.layer < layer || op.layer > program.layers) stop(`layer ${op.layer} after layer ${layer}`);
      layer = op.layer;
      for (const id of opInputs(op)) if (!made.has(id)) stop(`tensor ${id} is read before it is made`);
      const result = inferResult(program, op);
      for (const id of opResults(op)) {
        const declared = program.tensors[id];
        if (!declared) return stop(`there is no tensor ${id}`);
        if (made.has(id)) stop(`tensor ${id} is made twice`);
        made.add(id);
        const dtype = op.op === 'route' && id === op.weights ? 'f32' : result.dtype;
        if (declared.rows !== result.rows || declared.width !== result.width || declared.dtype !== dtype) {
          stop(
            `tensor ${id} is declared ${declared.rows} [${declared.width}] ${declared.dtype} and made ${result.rows} [${result.width}] ${dtype}`,
          );
        }
      }
      if (op.op === 'input') {
        if (inputs.has(op.name)) stop(`input ${op.name} is taken twice`);
        inputs.add(op.name);
      }
      if (op.op === 'remember' || (op.op === 'attend' && op.cache !== undefined && op.k !== undefined)) {
        const cache = op.cache as number;
        if (filled.has(cache)) stop(`cache ${cache} is filled by op ${filled.get(cache)} already`);
        filled.set(cache, index);
      }
      if (op.op === 'route') {
        if (topK !== undefined && topK !== op.topK) stop(`topK ${op.topK} after ${topK}: a program has one`);
        topK = op.topK;
        experts.set(op.out, program.tensors[op.x]!.width);
      }
      if (op.op === 'expertLinear' && experts.get(op.ids) !== op.linears.length) {
        stop(`${op.linears.length} experts for a router of ${experts.get(op.ids) ?? 'no'} outputs`);
      }
      if (op.op === 'combine' && program.tensors[op.weights]!.width !== topK)
        stop(`weights of ${program.tensors[op.weights]!.width} for topK ${topK}`);
    });
  }
  const used = new Set(program.ops.flatMap((op) => opLinears(op).ids));
  for (const [id, { path }] of program.linears.entries()) if (!used.has(id)) fail(`linear ${id} (${path}) is never used`);
  for (const id of program.caches.keys()) if (!filled.has(id)) fail(`cache ${id} is never filled`);
  for (const [name, id] of Object.entries(program.outputs))
    if (!made.has(id)) fail(`output ${name} names tensor ${id}, which is never made`);
}

// Backends under the names that hqq gives them. A runtime has backends of its own: each name stands for one of them and for what Python demands of a
// layer under it, or for an error that says why there is none.

import { type LinearDType, LowbitError, type Matrix } from '@lowbit/core';
import type { HqqSettings } from '@lowbit/layouts';

/** `HQQBackend` of hqq, and the names of its `prepare_for_inference`. */
export type HqqBackend =
  | 'default'
  | 'PYTORCH'
  | 'PYTORCH_FORWARD'
  | 'PYTORCH_COMPILE'
  | 'PYTORCH_FORWARD_COMPILE'
  | 'PYTORCH_BACKPROP'
  | 'PYTORCH_BACKPROP_COMPILE'
  | 'ATEN'
  | 'ATEN_FORWARD'
  | 'ATEN_BACKPROP'
  | 'ATEN_FORWARD_INT8'
  | 'torchao_int4'
  | 'bitblas'
  | 'gemlite'
  | 'marlin';

/** What a name is decided by. */
export interface LayerFacts {
  readonly settings: HqqSettings;
  readonly shape: Matrix;
  readonly computeDtype: LinearDType;
}

type Mapping =
  /** The first backend of the runtime that takes the format. */
  | { readonly runs: 'any' }
  /** The first of these that the runtime has. */
  | { readonly runs: readonly string[]; readonly needs?: (layer: LayerFacts) => string | undefined }
  | { readonly refused: string; readonly hint: string };

const NO_GRADIENTS: Mapping = { refused: 'lowbit computes no gradients', hint: "Use 'PYTORCH' or 'default' for inference." };
const PLAIN: Mapping = { runs: ['reference'] };
const COMPILED: Mapping = { runs: ['cpu'] };
const ATEN: Mapping = { runs: ['cuda'], needs: ({ settings: { axis } }) => (axis === 0 ? undefined : 'axis 0') };
const GROUPS: readonly (number | null)[] = [null, 32, 64, 128, 256];
const GROUPS_TEXT = 'groups of 32, 64, 128, 256 or whole rows';

const BACKENDS: Readonly<Record<HqqBackend, Mapping>> = {
  default: { runs: 'any' },
  PYTORCH: PLAIN,
  PYTORCH_FORWARD: PLAIN,
  PYTORCH_COMPILE: COMPILED,
  PYTORCH_FORWARD_COMPILE: COMPILED,
  PYTORCH_BACKPROP: NO_GRADIENTS,
  PYTORCH_BACKPROP_COMPILE: NO_GRADIENTS,
  ATEN,
  ATEN_FORWARD: ATEN,
  ATEN_BACKPROP: NO_GRADIENTS,
  ATEN_FORWARD_INT8: {
    refused: 'lowbit does not round activations and dequantized weights to 8 bits',
    hint: "Use 'ATEN_FORWARD' (axis 0) or 'default'.",
  },
  torchao_int4: {
    runs: ['cuda', 'webgpu', 'cpu'],
    needs: (layer) => wants(layer, { bits: [4], groups: GROUPS, dtypes: ['bf16'] }),
  },
  bitblas: { runs: ['cuda'], needs: (layer) => wants(layer, { bits: [4, 2, 1], groups: GROUPS, dtypes: ['f16'] }) },
  gemlite: { runs: ['cuda'], needs: (layer) => wants(layer, { bits: [8, 4, 2, 1], dtypes: ['f16', 'bf16'] }) ?? wholeGroups(layer) },
  marlin: {
    refused: 'hqq dropped it in 0.2.8: it needs group_size None, which hqq has replaced by a number since 0.2.3',
    hint: "Use 'torchao_int4', 'gemlite' or 'default'.",
  },
};

/** Every name, in the order of the table in docs/hqq.md. */
export const HQQ_BACKENDS = Object.keys(BACKENDS) as readonly HqqBackend[];

/** Throws ERR_BAD_ARGUMENT for a name that is none. */
export function checkBackendName(name: HqqBackend): void {
  if (Object.hasOwn(BACKENDS, name)) return;
  throw new LowbitError('ERR_BAD_ARGUMENT', `there is no HQQ backend ${JSON.stringify(name) ?? String(name)}`, {
    hint: `The names are ${HQQ_BACKENDS.join(', ')}.`,
    details: { backend: name },
  });
}

/**
 * The runtime's backend that a name stands for; undefined: the first that takes the format. `where` names the layer in messages.
 * @throws ERR_BAD_ARGUMENT (no such name), ERR_UNSUPPORTED_FORMAT (the layer is not what it takes, or nothing here does what it does),
 * ERR_BACKEND_UNAVAILABLE (the runtime lacks the backend)
 */
export function runtimeBackend(name: HqqBackend, layer: LayerFacts, available: readonly string[], where: string): string | undefined {
  checkBackendName(name);
  const mapping = BACKENDS[name];
  const details = { backend: name, layer: where };
  if ('refused' in mapping) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${name}: ${mapping.refused}`, { hint: mapping.hint, details });
  }
  if (mapping.runs === 'any') return undefined;
  const lack = mapping.needs?.(layer);
  if (lack !== undefined) {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `${name} takes layers with ${lack}; ${where} has ${factsText(layer)}`, {
      hint: "Use 'default', which takes what any backend here takes, or quantize the layer with such settings.",
      details,
    });
  }
  const found = mapping.runs.find((candidate) => available.includes(candidate));
  if (found !== undefined) return found;
  throw new LowbitError(
    'ERR_BACKEND_UNAVAILABLE',
    `${name} runs on the backend ${mapping.runs.join(' or ')}, which this runtime does not have`,
    {
      hint: `It has ${available.join(', ') || 'none'}. Add it to createRuntime({ backends }), or use 'default'.`,
      details: { ...details, available },
    },
  );
}

interface Demands {
  readonly bits: readonly number[];
  readonly groups?: readonly (number | null)[];
  readonly dtypes: readonly LinearDType[];
}

/** What the kernels of `prepare_for_inference` demand; undefined if the layer has it. */
function wants({ settings: s, computeDtype }: LayerFacts, { bits, groups, dtypes }: Demands): string | undefined {
  const fits =
    bits.includes(s.nbits) && s.axis === 1 && s.channel_wise && (groups?.includes(s.group_size) ?? true) && dtypes.includes(computeDtype);
  if (fits) return undefined;
  return `${bits.join(', ')} bits, ${groups ? GROUPS_TEXT : 'groups'} along axis 1, computing in ${dtypes.join(' or ')}`;
}

function wholeGroups({ settings: { group_size }, shape: [, inp] }: LayerFacts): string | undefined {
  const group = group_size ?? inp;
  return group >= 16 && inp % 32 === 0 && inp % group === 0 ? undefined : 'inputs in multiples of 32 that groups of 16 or more divide';
}

function factsText({ settings: s, shape: [out, inp], computeDtype }: LayerFacts): string {
  const groups = s.channel_wise
    ? `groups of ${s.group_size ?? (s.axis === 1 ? 'whole rows' : 'whole columns')} along axis ${s.axis}`
    : 'no groups';
  return `${s.nbits} bits, ${groups}, [${out}, ${inp}], ${computeDtype}`;
}

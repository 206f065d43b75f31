// Which backend runs what: a device map by module, tag or pattern, or as many layers on each backend as fit its memory.

import type { Backend, Format, Op, Program } from '@lowbit/core';
import { answerOf, byteLength, type DeviceMap, devicePlaces, LowbitError, opInputs, opLinears, opResults, refusal } from '@lowbit/core';
import { cutByPlace, type PlacedPiece } from './cut.ts';

/** Cuts a program by a device map. Throws ERR_BAD_ARGUMENT for linears without an entry, and for a map that parts what cannot be parted. */
export function cutByDeviceMap(program: Program, map: DeviceMap): readonly PlacedPiece<string>[] {
  const place = devicePlaces(map);
  const of = program.linears.map(({ path }) => place(path));
  const places = placesOfOps(program, (op) => {
    const names = new Set(opLinears(op).ids.map((id) => of[id]!));
    if (names.size < 2) return [...names][0];
    throw new LowbitError('ERR_BAD_ARGUMENT', `the device map parts the experts of layer ${op.layer} among ${[...names].join(', ')}`, {
      hint: 'One operation runs all experts of a projection: give them one backend.',
      details: { layer: op.layer, backends: [...names] },
    });
  });
  return cutByPlace(program, (_, index) => places[index]!);
}

/**
 * The place of every operation: that of its weights; else, for one that reads expert ids or routed rows, where those were made; else that of the next
 * one in its layer that has one, else of the one before.
 */
function placesOfOps({ ops, tensors }: Program, own: (op: Op) => string | undefined): string[] {
  const places = ops.map(own);
  const bound = ops.map((op) => opInputs(op).find((id) => tensors[id]!.rows === 'routed' || tensors[id]!.dtype === 'i32'));
  for (let i = places.length - 2; i >= 0; i--) {
    if (bound[i] === undefined && ops[i]!.layer === ops[i + 1]!.layer) places[i] ??= places[i + 1];
  }
  const madeAt = new Map(ops.flatMap((op, i) => opResults(op).map((id) => [id, i] as const)));
  for (let i = 0; i < places.length; i++) places[i] ??= bound[i] === undefined ? places[i - 1] : places[madeAt.get(bound[i]!)!];
  for (let i = places.length - 2; i >= 0; i--) places[i] ??= places[i + 1];
  return places.map((place) => {
    if (place !== undefined) return place;
    throw new LowbitError('ERR_BAD_ARGUMENT', 'a program without weights cannot be placed by a device map', {
      hint: 'Load it on one backend.',
    });
  });
}

/** A backend and the bytes of weights it may hold. */
export interface Room {
  readonly backend: Backend;
  readonly bytes: number;
}

/**
 * Cuts a program into as many layers on each backend, in order, as fit its room. Weights count; activations, caches and norms do not, so leave room for
 * them. Throws ERR_LIMIT if the weights do not fit together, ERR_UNSUPPORTED_FORMAT for one that its backend does not take.
 */
export function cutByRoom(
  program: Program,
  formats: readonly Format[],
  rooms: readonly Room[],
  options: PlacementOptions,
): readonly PlacedPiece<string>[] {
  const places: string[] = []; // of layers -1 .. program.layers
  const held = new Map<Room, { bytes: number; readonly ids: Set<number> }>(rooms.map((room) => [room, { bytes: 0, ids: new Set() }]));
  let at = 0;
  for (let layer = -1; layer <= program.layers; layer++) {
    const ids = new Set(program.ops.filter((op) => op.layer === layer).flatMap((op) => opLinears(op).ids));
    for (; ; at++) {
      const room = rooms[at];
      if (!room) throw tooSmall(program, rooms, layer);
      const own = held.get(room)!;
      let { bytes } = own;
      for (const id of ids) if (!own.ids.has(id)) bytes += bytesOn(room.backend, program, id, formats[id]!, options);
      if (bytes > room.bytes) continue;
      own.bytes = bytes;
      for (const id of ids) own.ids.add(id);
      places.push(room.backend.name);
      break;
    }
  }
  return cutByPlace(program, ({ layer }) => places[layer + 1]!);
}

export interface PlacementOptions {
  readonly allowDequant: boolean;
  readonly offloadMeta: boolean;
}

function bytesOn(backend: Backend, program: Program, id: number, format: Format, { allowDequant, offloadMeta }: PlacementOptions): number {
  const { shape, use, bias, path } = program.linears[id]!;
  const answer = answerOf(backend, { format, shape, use, offloadMeta }, { allowDequant });
  const reason = refusal(answer);
  if (reason !== undefined || answer.support.level === 'none') {
    throw new LowbitError('ERR_UNSUPPORTED_FORMAT', `backend '${backend.name}' does not take ${path}: ${reason}`, {
      hint: 'Leave this backend out, or place these layers by name.',
      details: { path, backend: backend.name },
    });
  }
  return answer.support.bytes + (bias === undefined ? 0 : byteLength(program.constants[bias]!));
}

function tooSmall(program: Program, rooms: readonly Room[], layer: number): LowbitError {
  const where =
    layer < 0 ? 'what comes before the first layer' : layer < program.layers ? `layer ${layer} of ${program.layers}` : 'the head';
  const given = rooms.map(({ backend, bytes }) => `${backend.name} ${bytes} bytes`).join(', ');
  return new LowbitError('ERR_LIMIT', `the weights do not fit: no room is left for ${where} (${given})`, {
    hint: 'Allow more memory, add a backend, quantize to fewer bits, or pass offloadMeta.',
    details: { layer, rooms: rooms.map(({ backend, bytes }) => ({ backend: backend.name, bytes })) },
  });
}

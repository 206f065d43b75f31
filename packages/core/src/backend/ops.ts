// All operations of programs: what a backend that runs every one of them says.

import type { OpName } from '../spec/program.ts';

const NAMES: Readonly<Record<OpName, true>> = {
  embed: true,
  input: true,
  inject: true,
  positionEmbed: true,
  norm: true,
  linear: true,
  rope: true,
  attend: true,
  remember: true,
  activate: true,
  gate: true,
  add: true,
  scale: true,
  softcap: true,
  slice: true,
  select: true,
  route: true,
  expertLinear: true,
  combine: true,
};

/** All operations. */
export const OP_NAMES: ReadonlySet<OpName> = new Set(Object.keys(NAMES) as OpName[]);

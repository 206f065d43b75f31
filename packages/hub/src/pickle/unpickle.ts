// A pickle machine that can only make data. Python's own executes whatever a file names; this one knows a few opcodes (actions.ts) and a list of
// names, calls nothing but the functions of globals.ts, and stops at stated bounds. It is a loop over bytes: no recursion, however deep the data is
// nested.

import { ACTION_OF, type Machine } from './actions.ts';
import { checkData } from './check-data.ts';
import { PICKLE_LIMITS, type PickleLimits } from './limits.ts';
import { OP, opName, REFUSED } from './opcodes.ts';
import { createOperands } from './operands.ts';
import { createRefusals } from './refusals.ts';
import { createMemo, createStack } from './stack.ts';
import type { PickleValue } from './values.ts';

/**
 * Data of a pickle of protocol 2 to 5. Throws ERR_BAD_PICKLE, naming `file`, the opcode or global, and its offset, for anything that is not data and
 * for what goes over `limits`, which no checkpoint comes near.
 */
export function unpickle(bytes: Uint8Array, file: string, limits: PickleLimits = PICKLE_LIMITS): PickleValue {
  const refusals = createRefusals(file);
  const operands = createOperands(bytes, refusals, limits.string);
  const stack = createStack(refusals, limits);
  const machine: Machine = { operands, stack, memo: createMemo(refusals, limits), lists: new WeakSet(), refusals };
  checkProtocol(machine);
  run(machine);
  const result = stack.result();
  if (operands.left() > 0) throw refusals.fail(`${operands.left()} bytes follow`);
  return checkData(result, limits.depth, refusals);
}

function checkProtocol({ operands, refusals }: Machine): void {
  refusals.op = 'PROTO';
  if (operands.u8() !== OP.PROTO) throw refusals.notData('the pickle does not begin with it, so it is of protocol 0 or 1, or no pickle');
  const protocol = operands.u8();
  if (protocol < 2 || protocol > 5) throw refusals.fail(`protocol ${protocol}, expected 2 to 5`);
}

/** Opcode by opcode, until STOP. */
function run(machine: Machine): void {
  const { operands, refusals } = machine;
  for (;;) {
    refusals.at = operands.position();
    refusals.op = 'end';
    const code = operands.u8();
    refusals.op = opName(code);
    if (code === OP.STOP) return;
    const action = ACTION_OF[code];
    if (action === undefined) throw REFUSED.has(code) ? refusals.notData('this opcode is not executed') : refusals.fail('no such opcode');
    action(machine);
  }
}

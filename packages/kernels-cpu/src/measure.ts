// What `measure` is asked: sizes that the addon plans a step with must be those of a step that could be.

import { type LinearRequest, LowbitError, type Program, type StepSize } from '@lowbit/core';

/** Rows of a step that is only planned: far beyond any prompt, and the plan has lists of them. */
const MOST_ROWS = 2 ** 24;
const MOST_CONTEXT = 2 ** 32;

/** Throws ERR_BAD_ARGUMENT for linears that are not the program's, and for sizes that no step has. */
export function checkMeasured(program: Program, linears: readonly LinearRequest[], size: StepSize): void {
  const fits = ({ shape: [out, inp] }: LinearRequest, i: number): boolean => {
    const [rows, columns] = program.linears[i]!.shape;
    return out === rows && inp === columns;
  };
  if (linears.length !== program.linears.length || !linears.every(fits)) {
    const list = linears.map(({ shape }) => `[${shape.join(', ')}]`).join(' ');
    throw bad(
      `the program has ${program.linears.length} linears of other shapes than ${list}`,
      "Ask with the program's linears, in order.",
    );
  }
  const { contextLength, sequences, tokens, outputs, encoder } = size;
  const whole = [contextLength, sequences, tokens, outputs, encoder].every((count) => Number.isSafeInteger(count) && count >= 0);
  const rows = sequences * Math.max(tokens, encoder, 1);
  if (!whole || contextLength > MOST_CONTEXT || tokens > contextLength || outputs > tokens || rows > MOST_ROWS) {
    const text = `${sequences} sequences, of each ${tokens} of ${contextLength} tokens, ${outputs} outputs and ${encoder} rows of an encoder`;
    throw bad(`no step has ${text}`, `Outputs are among the tokens, tokens within the context, and rows ${MOST_ROWS} at most.`);
  }
}

function bad(what: string, hint: string): LowbitError {
  return new LowbitError('ERR_BAD_ARGUMENT', `kernels-cpu: ${what}`, { hint });
}

import { expect, it } from 'vitest';
import { colored } from './context.ts';

it.each([
  [true, {}, true],
  [true, { TERM: 'dumb' }, false],
  [true, { NO_COLOR: '1' }, false],
  [false, {}, false],
])('colours: terminal %s, environment %j: %s', (isTTY, env, expected) => expect(colored({ isTTY }, env)).toBe(expected));

import { LowbitError } from '@lowbit/core';
import { expect, it } from 'vitest';
import { tokensFlag, withHint } from './errors.ts';
import { readNamed } from './texts.ts';

it('a word that is none lists those there are, and names the nearest', async () => {
  await expect(readNamed('random-tokns', '--on', ['random-tokens', 'self'])).rejects.toMatchObject({
    code: 'ERR_USAGE',
    message: '--on: random-tokns is neither random-tokens, self nor a file',
    hint: 'Did you mean random-tokens?',
  });
});

it('hints name the flag of the command that was run', async () => {
  const fail = async () => {
    throw new LowbitError('ERR_LIMIT', 'too many', { hint: 'Take at most 12 tokens.' });
  };
  await expect(withHint(fail, tokensFlag('--tokens'))).rejects.toMatchObject({
    code: 'ERR_LIMIT',
    message: 'too many',
    hint: 'Take at most 12 tokens (--tokens 12).',
  });
});

import { LowbitError } from '@lowbit/core';
import { describe, expect, it } from 'vitest';
import { Interrupted, renderError, UsageError } from './errors.ts';

const failure = new LowbitError('ERR_NOT_FOUND', 'cannot open ./x: it does not exist', {
  hint: 'Check the path.',
  details: { path: './x' },
});

describe('renderError', () => {
  it('shows message, code and hint, and no stack', () => {
    expect(renderError(failure, { json: false })).toEqual({
      stdout: '',
      stderr: 'error: cannot open ./x: it does not exist [ERR_NOT_FOUND]\nhint: Check the path.\n',
      exitCode: 1,
    });
  });

  it('is one JSON value on stdout with json', () => {
    const { stdout, stderr, exitCode } = renderError(failure, { json: true });
    expect(JSON.parse(stdout)).toEqual({
      error: { code: 'ERR_NOT_FOUND', message: 'cannot open ./x: it does not exist', hint: 'Check the path.', details: { path: './x' } },
    });
    expect([stderr, exitCode]).toEqual(['', 1]);
  });

  it('writes JSON of details that JSON has no word for', () => {
    const odd = new LowbitError('ERR_X', 'odd', {
      details: { big: 2n ** 60n, nan: Number.NaN, map: new Map([['a', 1]]), error: new Error('inner') },
    });
    expect(JSON.parse(renderError(odd, { json: true }).stdout).error.details).toEqual({
      big: '1152921504606846976',
      nan: 'NaN',
      map: [['a', 1]],
      error: 'inner',
    });
  });

  it('shows the stack of an unexpected error only when debugging', () => {
    const bug = new TypeError('x is not a function');
    expect(renderError(bug, { json: false }).stderr).toMatch(/^error: x is not a function \[ERR_UNEXPECTED\]\nhint: .*LOWBIT_DEBUG=1.*\n$/);
    expect(renderError(bug, { json: false, debug: true }).stderr).toContain('errors.test.ts');
    expect(renderError('text', { json: true }).stdout).toContain('"message":"text"');
  });

  it('has exit codes for usage and signals', () => {
    expect(renderError(new UsageError('no', 'do'), { json: false })).toEqual({ stdout: '', stderr: 'error: no\nhint: do\n', exitCode: 2 });
    expect(renderError(new Interrupted('SIGINT'), { json: false })).toEqual({ stdout: '', stderr: 'interrupted\n', exitCode: 130 });
    expect(renderError(new Interrupted('SIGTERM'), { json: false }).exitCode).toBe(143);
    expect(renderError(new Interrupted('SIGHUP'), { json: false }).exitCode).toBe(129);
  });

  it('passes no escape sequences of strangers on', () => {
    const evil = new LowbitError('ERR_BAD_SAFETENSORS', 'tensor \x1b[2Jx\nsecond line', { hint: '\x07' });
    expect(renderError(evil, { json: false }).stderr).toBe('error: tensor ?[2Jx\nsecond line [ERR_BAD_SAFETENSORS]\nhint: ?\n');
  });
});

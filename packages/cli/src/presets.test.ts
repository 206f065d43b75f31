import { expect, it } from 'vitest';
import { presetText } from './presets.ts';

it('a preset is told with its figures only where nothing changed it', () => {
  expect(presetText('recommended', 'least-squares', 'random-tokens')).toMatch(
    /^recommended: least squares weighed by random tokens; KL divergence 0\.39/,
  );
  expect(presetText('recommended', 'hqq', 'none')).toBe('recommended, changed: the solver hqq');
  expect(presetText('recommended', 'least-squares', 'none')).toBe('recommended, changed: least squares not weighed');
  expect(presetText('recommended', 'least-squares', 'weights')).toBe(
    'recommended, changed: least squares weighed by an estimate from weights',
  );
});

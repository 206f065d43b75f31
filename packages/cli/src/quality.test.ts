import { modelCard } from '@lowbit/hub';
import { describe, expect, it } from 'vitest';
import { cardQuality, readQuality } from './quality.ts';

const REPORT = {
  kl: 0.0123,
  klStderr: 0.0004,
  top1: 0.9512,
  top1Stderr: 0.002,
  tokens: 12_345,
  contextLength: 512,
  reference: { perplexity: 10.5, stderr: 0.1 },
  model: { perplexity: 10.75, stderr: 0.1 },
  size: { model: { bytes: 4_000_000 }, reference: { bytes: 16_000_000 } },
  text: 'eval.txt',
};

describe('what was measured, on a card', () => {
  it('a table, and the result of the front matter', () => {
    const card = modelCard('small-4bit', {
      layout: 'hqq',
      recipe: ['4 bits'],
      loadsIn: [],
      ...cardQuality(readQuality(REPORT, 'quality.json')),
    });
    expect(card).toContain(
      [
        'model-index:',
        '- name: small-4bit',
        '  results:',
        '  - task:',
        '      type: text-generation',
        '    dataset:',
        '      name: eval.txt',
        '      type: text',
        '    metrics:',
        '    - type: perplexity',
        '      name: perplexity',
        '      value: 10.75',
        '---',
      ].join('\n'),
    );
    expect(card).toContain(
      [
        '## Quality',
        '',
        'Measured on 12,345 tokens of eval.txt in windows of 512.',
        '',
        '| | original | quantized |',
        '|---|---|---|',
        '| perplexity | 10.5000 | 10.7500 |',
        '| KL divergence, nats per token | 0 | 0.0123 ± 0.00040 |',
        '| same likeliest token | 100 % | 95.12 % ± 0.20 |',
        '| size | 16.0 MB | 4.00 MB |',
      ].join('\n'),
    );
  });

  it('a text without a name gives no result for the front matter; a name stays a text there', () => {
    const { text: _, size: __, contextLength: ___, ...bare } = REPORT;
    const quality = cardQuality(readQuality(bare, 'q'));
    expect(quality).toMatchObject({ measuredOn: '12,345 tokens of a text' });
    expect([quality.perplexity, quality.quality?.length]).toEqual([undefined, 3]);
    const named = cardQuality(readQuality({ ...REPORT, text: 'a: b\n---\n# x' }, 'q'));
    const card = modelCard('x', { layout: 'hqq', recipe: [], loadsIn: [], ...named });
    expect(card).toContain('      name: "a: b\\n---\\n# x"\n');
    expect(card.split('\n').filter((line) => line === '---')).toHaveLength(2);
  });

  it.each<[string, unknown]>([
    ['a list', []],
    ['null', null],
    ['nothing', {}],
    ['a text for a number', { ...REPORT, kl: '0.1' }],
    ['a negative divergence', { ...REPORT, kl: -1 }],
    ['a share over 1', { ...REPORT, top1: 1.2 }],
    ['no perplexity', { ...REPORT, model: {} }],
    ['a perplexity of 0', { ...REPORT, model: { perplexity: 0 } }],
    ['a perplexity that JSON cannot hold', { ...REPORT, model: { perplexity: null } }],
    ['a size that is none', { ...REPORT, size: { model: {}, reference: { bytes: 1 } } }],
  ])('%s is refused with what makes such a file', (_, json) => {
    expect(() => readQuality(json, 'q.json')).toThrow(
      expect.objectContaining({
        code: 'ERR_BAD_ARGUMENT',
        hint: expect.stringContaining('lowbit compare'),
        message: expect.stringContaining('q.json'),
      }),
    );
  });
});

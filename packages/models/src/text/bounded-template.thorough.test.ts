// Templates that would take a process down, each on its own, and proof that no honest one comes near the bounds.

import type { JsonObject } from '@lowbit/core';
import { describe, expect, test } from 'vitest';
import { goldenJson } from '../../../../fixtures/golden.ts';
import { boundedTemplate, TEMPLATE_LIMITS } from './bounded-template.ts';
import { chatRenderer } from './chat-template.ts';

const tooMuch = expect.objectContaining({
  code: 'ERR_LIMIT',
  message: expect.stringContaining('chat template'),
  hint: expect.stringContaining('`template`'),
});
const loop = (times: number, body: string): string => `{% for i in range(${times}) %}${body}{% endfor %}`;
/** `ns.x` doubled some times. */
const doubled = (start: string, times: number, operator: string): string =>
  `{% set ns = namespace(x=${start}) %}${loop(times, `{% set ns.x = ns.x ${operator} ns.x %}`)}`;

describe('ERR_LIMIT, soon', () => {
  const attacks: [what: string, source: string][] = [
    ['a long range', '{% for i in range(3000000) %}{% endfor %}'],
    ['a range over memory', '{{ range(300000000) | length }}'],
    ['an endless range', '{{ range(0, 2 ** 1000) }}'],
    ['a range whose steps are lost', '{{ range(2 ** 53, 2 ** 53 + 1000000) }}'],
    ['loops in loops', loop(90_000, loop(90_000, ''))],
    ['loops over one list', `{% set r = range(90000) %}{% for i in r %}{% for j in r %}{% endfor %}{% endfor %}`],
    ['loops with a test', `{% for i in range(90000) if i > 5 %}${loop(90_000, '')}{% endfor %}`],
    [
      'macros that call each other',
      Array.from({ length: 40 }, (_, i) => `{% macro m${i + 1}() %}{{ m${i}() }}{{ m${i}() }}{% endmacro %}`).join('') +
        '{% macro m0() %}{% endmacro %}{{ m40() }}',
    ],
    ['a macro without end', '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}'],
    [
      'call blocks in a loop',
      `{% macro m() %}{% for i in range(50000) %}{{ caller() }}{% endfor %}{% endmacro %}{% call m() %}${loop(50_000, 'x')}{% endcall %}`,
    ],
    ['a growing text', doubled("'abcdefgh'", 60, '~')],
    ['a growing list', doubled('[1, 2, 3, 4]', 60, '+')],
    ['much output', loop(90_000, 'x'.repeat(1000))],
    ['output in a filter block', `{% filter indent(8) %}${loop(90_000, '\n'.repeat(999))}{% endfilter %}`],
    ['output in a set block', `{% set x %}${loop(90_000, 'x'.repeat(1000))}{% endset %}{{ x | length }}`],
    ['a list that holds itself often, printed', `{% set ns = namespace(x=[1]) %}${loop(40, '{% set ns.x = [ns.x, ns.x] %}')}{{ ns.x }}`],
    ['the same as JSON', `{% set ns = namespace(x=[1]) %}${loop(40, '{% set ns.x = [ns.x, ns.x] %}')}{{ ns.x | tojson | length }}`],
    ['the same, joined', `{% set ns = namespace(x=[1]) %}${loop(40, '{% set ns.x = [ns.x, ns.x] %}')}{{ ns.x ~ "" }}`],
    ['the same, compared', `{% set ns = namespace(x=[1]) %}${loop(40, '{% set ns.x = [ns.x, ns.x] %}')}{{ ns.x == "1" }}`],
    ['a namespace in itself', '{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}'],
    ['wide indentation', "{{ 'a\nb' | indent(400000000) }}"],
    ['wide indentation by keyword', "{{ 'a\nb' | indent(width=400000000) }}"],
    ['wide indentation, unpacked', "{{ 'a\nb' | indent(*[400000000]) }}"],
    ['wide JSON', '{{ [[1]] | tojson(indent=400000000) }}'],
    ['replacing by more', `${doubled("'aaaa'", 18, '~')}{{ ns.x | replace('a', ns.x) }}`],
    ['replacing by more, as a method', `${doubled("'aaaa'", 18, '~')}{{ ns.x.replace('a', ns.x) }}`],
    ['joining with more', `${doubled("'aaaa'", 18, '~')}{{ ns.x | join(ns.x) }}`],
    ['splitting over and over', `${doubled("'aaaa'", 18, '~')}${loop(9000, "{% set x = ns.x.split('a') %}")}`],
    ['a method kept in a variable', `${doubled("'aaaa'", 18, '~')}{% set f = ns.x.upper %}${loop(90_000, '{% set x = f() %}')}`],
    ['slicing over and over', `${doubled("'aaaa'", 18, '~')}${loop(90_000, '{% set x = ns.x[1:] %}')}`],
    ['searching over and over', `${doubled("'aaaa'", 18, '~')}${loop(90_000, "{% set x = 'b' in ns.x %}")}`],
    ['searching for much', `${doubled("'aaaa'", 18, '~')}{{ ('b' ~ ns.x) in (ns.x ~ ns.x) }}`],
    [
      'sorting long texts',
      `${doubled("'aaaa'", 17, '~')}{% set l = namespace(x=[ns.x]) %}${loop(15, '{% set l.x = l.x + l.x %}')}{{ l.x | sort | length }}`,
    ],
    ['dates over and over', loop(90_000, "{{ strftime_now('%B') }}")],
    ['white space in a row', `{{ 1 }}${' '.repeat(200_000)}{{ 1 }}`],
    ['parentheses in parentheses', `{{ ${'('.repeat(400_000)}1${')'.repeat(400_000)} }}`],
    ['a chain of sums', `{{ 1${'+1'.repeat(400_000)} }}`],
    ['a long template', 'x'.repeat(TEMPLATE_LIMITS.source + 1)],
  ];
  // What is counted ends them, whatever the machine is busy with; without a bound they would run for hours or out of memory.
  test.each(attacks)(
    '%s',
    (_, source) => {
      expect(() => boundedTemplate(source)({})).toThrow(tooMuch);
    },
    120_000,
  );
});

test('what the usual globals and constructs give is unchanged', () => {
  const cases: [source: string, text: string][] = [
    [
      '{{ range(3) | join(",") }} {{ range(1, 6, 2) | join(",") }} {{ range(5, 0, -2) | join(",") }} {{ range(3, 1) | length }}',
      '0,1,2 1,3,5 5,3,1 0',
    ],
    ['{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}', '013'],
    ['{% for k, v in {"a": 1, "b": 2}.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}', 'a1b2'],
    ['{% macro m(x, y=2) %}{{ x }}{{ y }}{{ kwargs.z }}{% endmacro %}{{ m(1, z=3) }}', '123'],
    ['{% macro m() %}<{{ caller("x") }}>{% endmacro %}{% call(a) m() %}{{ a }}{% endcall %}', '<x>'],
    ['{{ [3, 1, 2] | sort(reverse=true) | tojson }} {{ {"a": [1]} | tojson(indent=2) }}', '[3, 2, 1] {\n  "a": [\n    1\n  ]\n}'],
    ['{{ "a-b".split("-")[1].upper().replace("B", "cc") }} {% filter indent(2) %}a\nb{% endfilter %}', 'cc a\n  b'],
    [
      '{{ True }} {{ None is none }} {{ missing is defined }} {{ ([] | first) is defined }} {{ {}.get("x", "y") }}',
      'true true false false y',
    ],
  ];
  for (const [source, text] of cases) expect(boundedTemplate(source)({}), source).toBe(text);
  expect(boundedTemplate('{{ strftime_now("%Y") }}')({})).toBe(String(new Date().getFullYear()));
  expect(() => boundedTemplate('{{ raise_exception("no") }}')({})).toThrow(/^no$/);
});

test.each(['llama3', 'mistral', 'gemma'])('a conversation of 1,000 turns and 1.5 million characters fits: %s', (name) => {
  const config = goldenJson<JsonObject>(`models/tokenizer-${name}/tokenizer_config.json`);
  if (typeof config.chat_template !== 'string') return;
  const render = chatRenderer(new Map([['default', config.chat_template]]), { bos_token: '<s>', eos_token: '</s>' });
  const messages = Array.from({ length: 1000 }, (_, i) => ({ role: i % 2 ? 'assistant' : 'user', content: 'word '.repeat(300) }));
  expect(render(messages, { addGenerationPrompt: false }).length).toBeGreaterThan(1.4e6);
});

test('a limit is not taken for a refusal of the template', () => {
  const render = chatRenderer(new Map([['default', '{% for i in range(3000000) %}{% endfor %}']]), {});
  expect(() => render([])).toThrow(tooMuch);
});

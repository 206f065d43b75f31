// `lowbit quantize`: what is done to which linears.

import type { Command } from 'commander';
import { METHODS, parseBits, parseChoice, parseGlob, parseGroup, parseMethod, parseRule, type RuleText } from '../../parse.ts';
import { PRESET, PRESETS } from '../../presets.ts';
import { arg, path } from '../common.ts';

/** What is done to linears: for all that no rule matches, and rules. `rules` takes those of --rule and --skip, whose order among each other counts: the last match wins. */
export function addLinearFlags(command: Command, rules: RuleText[]): void {
  command
    .optionsGroup('What is done to which linears:')
    .option(
      '-m, --method <name>',
      `method: ${METHODS.join(', ')}, as Python has it; or the module of another one, ./my-method or a package (default: the files of hqq by --solver least-squares --importance random-tokens, closer to the original)`,
      arg(parseMethod),
    )
    .option('-b, --bits <n>', 'hqq: bits per weight, 8, 6, 5, 4, 3, 2, 1.58 or 1; higgs: 4, 3 or 2 (default: 4)', arg(parseBits))
    .option(
      '-g, --group <n>',
      'hqq, nf4, fp4, higgs: weights that share a scale; hqq also none, for whole rows (default: 64, higgs 256)',
      arg(parseGroup),
    )
    .option(
      '--preset <name>',
      `settings that go together, other flags override them: ${PRESETS.map((name) => `${name} (${PRESET[name].what})`).join('; ')}`,
      arg((text) => parseChoice(text, PRESETS)),
    )
    .option('--recipe <file>', 'settings from a file that --save-recipe wrote; other flags override them', path)
    .option('--save-recipe <file>', 'keep all settings as JSON, to read, edit and use again; what --target-bits chose, too', path)
    .option(
      '--rule <glob=use>',
      "treat matching linears differently: 'mlp.down_proj=hqq:b8:g64:a0', '**.q_proj=hqq:b4:least-squares' (or :ls), 'mlp.*=nf4:g64:dq' (with :search, --scale search), 'lm_head=int8:t6', 'mlp.*_proj=higgs:b4:p2:g256:h512' (with :unbiased, --scale unbiased), 'lm_head=keep'; the last match wins",
      arg((text) => void rules.push(parseRule(text))),
    )
    .option(
      '--skip <glob>',
      'keep matching linears as they are; short for --rule GLOB=keep',
      arg((text) => void rules.push({ match: parseGlob(text), use: 'keep' })),
    );
}

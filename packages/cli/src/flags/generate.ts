// Flags of what writes text: `lowbit generate`, `chat`.

import type { Command } from 'commander';
import type { ChatOptions } from '../commands/chat.ts';
import type { GenerateOptions } from '../commands/generate.ts';
import { computing, number, OWN_FLAGS, offloading, path, type Start, verb } from './common.ts';

export function addGenerate(program: Command, start: Start): void {
  offloading(computing(sampling(verb(program, 'generate', 'continue a text'))))
    .argument('<model>', 'model folder, quantized or not, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .requiredOption('-p, --prompt <text>', 'text to continue; - reads it from stdin')
    .option(
      '--image <file>',
      'image to look at, JPEG or PNG (with sharp installed others, too); one for each <image> of the prompt, may be repeated',
      (text, before: readonly string[] | undefined) => [...(before ?? []), path(text)],
    )
    .addHelpText(
      'after',
      '\nExample:\n  lowbit generate ./model-hqq4 -p "It was a fine morning, and" --max-tokens 60 --seed 1\n  lowbit generate ./llava-hqq4 --image cat.jpg -p "USER: <image> What is this? ASSISTANT:"',
    )
    .action(async (model: string, options: GenerateOptions) => {
      const context = start(options);
      const { generateCommand } = await import('../commands/generate.ts');
      await generateCommand(model, options, context);
    });
}

export function addChat(program: Command, start: Start): void {
  const described = 'talk with a model; without a terminal, one answer per line of stdin';
  offloading(computing(sampling(verb(program, 'chat', described, 'JSON Lines on stdout: one value per answer; no progress'))))
    .argument('<model>', 'model folder with a chat template, FILE.gguf, or ORG/NAME[@REVISION][/FILE.gguf] of the Hub', path)
    .option('--system <text>', 'system message')
    .option('--template <name>', "chat template of the model by its name, or a file with one (default: the model's own)", path)
    .option('--tools <file>', 'JSON file with a list of function descriptions for the template', path)
    .addHelpText(
      'after',
      '\nIn the chat: /reset starts over, /image FILE shows an image with the next message, /save FILE writes the conversation as JSON, /exit leaves. Ctrl-C stops an answer; twice, it leaves.',
    )
    .action(async (model: string, options: ChatOptions) => {
      const context = start(options);
      const { chatCommand } = await import('../commands/chat.ts');
      await chatCommand(model, options, context);
    });
}

function sampling(command: Command): Command {
  return command
    .optionsGroup('How the text is written:')
    .option('--max-tokens <n>', 'most tokens to generate', number({ min: 1, max: 2 ** 31, whole: true }), 256)
    .option(
      '--temp <x>',
      'temperature; 0 always takes the likeliest token (default: generation_config.json, else 0.7)',
      number({ min: 0, max: 100 }),
    )
    .option('--top-k <n>', 'sample among the n likeliest tokens; 0 among all', number({ min: 0, max: 2 ** 31, whole: true }))
    .option('--top-p <x>', 'sample among the likeliest tokens that make up this share', number({ min: 0, max: 1 }))
    .option('--seed <n>', 'make sampling repeatable', number({ min: 0, max: Number.MAX_SAFE_INTEGER, whole: true }))
    .option('--json-schema <file>', 'write JSON that satisfies this JSON schema, and nothing else', path)
    .option('--prompt-lookup', 'guess tokens from the text so far: the same text (int8: nearly), faster where it repeats itself')
    .optionsGroup(OWN_FLAGS);
}

// From arguments to an exit code: parses, runs one command, renders what went wrong, and turns signals into an abort.

import { CommanderError } from 'commander';
import pc from 'picocolors';
import { createProgram } from './command-line.ts';
import { type CommonOptions, type Context, colored, createContext } from './context.ts';
import { CutOffError, EXIT, Interrupted, isBrokenPipe, OutputError, renderError, UsageError } from './errors.ts';

/** Runs the command line. Never throws: the result is the exit code. */
export async function run(argv: readonly string[]): Promise<number> {
  const signals = listenForSignals();
  let context: Context | undefined;
  const program = createProgram((options: CommonOptions) => {
    context = createContext(options, signals);
    return context;
  });
  try {
    await program.parseAsync(argv, { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    if (isBrokenPipe(error)) return EXIT.ok;
    if (error instanceof CommanderError && error.exitCode === 0) return EXIT.ok; // --help and --version
    context?.progress.clear();
    if (error instanceof OutputError) return EXIT.failure; // reported by listenForSignals, whoever wrote
    if (error instanceof CutOffError && context?.json) return EXIT.failure; // stdout has the result, whose finishReason says it
    const separator = argv.indexOf('--');
    const json = context?.json ?? argv.slice(0, separator < 0 ? undefined : separator).includes('--json');
    return report(error instanceof CommanderError ? usageError(error, argv) : error, json);
  } finally {
    signals.stop();
  }
}

function report(error: unknown, json: boolean): number {
  const { stdout, stderr, env } = process;
  const { red } = pc.createColors(colored(stderr));
  const debug = env.LOWBIT_DEBUG !== undefined && env.LOWBIT_DEBUG !== '' && env.LOWBIT_DEBUG !== '0';
  const rendered = renderError(error, { json, debug, red });
  if (rendered.stdout) stdout.write(rendered.stdout);
  if (rendered.stderr) stderr.write(rendered.stderr);
  return rendered.exitCode;
}

/** A refusal of the parser in our own form: its first line is the message, its suggestion the hint. */
function usageError(error: CommanderError, argv: readonly string[]): UsageError {
  const [message = '', ...rest] = error.message.replace(/^error: /, '').split('\n');
  const suggestion = rest.join(' ').replace(/^\(|\)$/g, '');
  const verb = argv.find((arg) => !arg.startsWith('-'));
  const help = `\`lowbit ${verb && error.code !== 'commander.unknownCommand' ? `${verb} ` : ''}--help\` shows what there is.`;
  if (error.code === 'commander.help') return new UsageError('no command given', help);
  return new UsageError(message, suggestion ? `${suggestion} ${help}` : help);
}

interface Signals {
  readonly signal: AbortSignal;
  onInterrupt(handler: () => boolean): () => void;
  stop(): void;
}

function listenForSignals(): Signals {
  const controller = new AbortController();
  let handlers: (() => boolean)[] = [];
  const interrupt = (): void => {
    if (handlers.at(-1)?.()) return;
    // The second Ctrl-C does not wait for the clean-up of the first.
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    controller.abort(new Interrupted('SIGINT'));
  };
  const terminate = (): void => controller.abort(new Interrupted('SIGTERM'));
  const hangUp = (): void => controller.abort(new Interrupted('SIGHUP'));
  // The reader of our results may leave early (`lowbit inspect | head`): that is no failure, and nothing is left to do. Anything else is one, and
  // stdout cannot tell, --json or not.
  const noReader = (error: Error): void => {
    if (isBrokenPipe(error)) process.exit(EXIT.ok);
    process.exit(report(new OutputError(error), false));
  };
  // Nobody reads progress any more (`lowbit quantize 2>&1 | head`, or the terminal is gone): the work goes on.
  const noListener = (): void => {};
  process.on('SIGINT', interrupt);
  process.on('SIGTERM', terminate);
  process.on('SIGHUP', hangUp);
  process.stdout.on('error', noReader);
  process.stderr.on('error', noListener);
  return {
    signal: controller.signal,
    onInterrupt(handler) {
      handlers.push(handler);
      return () => {
        handlers = handlers.filter((other) => other !== handler);
      };
    },
    stop() {
      process.off('SIGINT', interrupt);
      process.off('SIGTERM', terminate);
      process.off('SIGHUP', hangUp);
    },
  };
}

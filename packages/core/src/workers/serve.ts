// The worker's side: a module that serves routines calls `serveRoutines` once, and is named by its method's `Quantizer.worker`.

import { LowbitError } from '../spec/errors.ts';
import type { Routine } from '../spec/quantizer.ts';
import { type Answer, type Call, isShared, postable, toFailure } from './messages.ts';
import { nodeThreads } from './threads.node.ts';

/** The end of a channel in a worker. */
interface Port {
  postMessage(message: Answer, transfer: readonly ArrayBuffer[]): void;
}

/**
 * Answers calls of these routines, one after another, for as long as the worker lives. Only for worker threads.
 * Throws ERR_BAD_ARGUMENT on a main thread.
 *
 * @example
 * // worker.ts, built to a module of its own
 * serveRoutines({ 'my.fit': fitTile });
 */
export function serveRoutines(routines: Readonly<Record<string, Routine>>): void {
  const port = nodeThreads()?.parentPort;
  if (port) {
    port.on('message', (call: Call) => void answer(routines, call, port as Port));
    return;
  }
  const scope = globalThis as unknown as Port & { addEventListener?(type: 'message', listener: (event: { data: Call }) => void): void };
  if ('document' in globalThis || !scope.addEventListener || typeof scope.postMessage !== 'function') {
    throw new LowbitError('ERR_BAD_ARGUMENT', 'serveRoutines was called outside a worker thread', {
      hint: 'Name the module that calls it as Quantizer.worker; importing it has no use.',
    });
  }
  scope.addEventListener('message', ({ data }) => void answer(routines, data, scope));
}

async function answer(routines: Readonly<Record<string, Routine>>, { id, routine, inputs, params }: Call, port: Port): Promise<void> {
  try {
    const serve = Object.hasOwn(routines, routine) ? routines[routine] : undefined;
    if (!serve) {
      throw new LowbitError('ERR_BAD_ARGUMENT', `this worker serves no routine ${routine}`, {
        hint: `It serves ${Object.keys(routines).join(', ')}.`,
        details: { routine },
      });
    }
    const outputs = postable(await serve(inputs, params));
    const buffers = outputs.filter(({ data }) => !isShared(data)).map(({ data }) => data.buffer as ArrayBuffer);
    port.postMessage({ id, outputs }, [...new Set(buffers)]);
  } catch (error) {
    port.postMessage({ id, failure: toFailure(error) }, []);
  }
}

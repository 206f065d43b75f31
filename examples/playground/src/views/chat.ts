// Opening and closing the model that one talks to, or lets continue a text.

import { CallError } from '../client.ts';
import { button, find } from '../dom.ts';
import { clearError, showError } from '../notices.ts';
import type { Loaded, Progress, Source } from '../protocol.ts';
import type { App } from '../state.ts';
import { bytesText } from '../text.ts';
import { createConversation } from './chat/conversation.ts';
import { createHead } from './chat/head.ts';

export function createChat(app: App): { open(source: Source): Promise<void>; offer(): void } {
  const bar = find<HTMLProgressElement>('load-bar');
  const error = find('chat-error');
  const asItIs = button('Open the chosen model as it is', {}, () => app.chosen && open(app.chosen.source));
  const head = createHead();
  const conversation = createConversation(app, { onLost: showLost });
  let loading: AbortController | undefined;
  let source: Source | undefined; // of the model that is open
  showClosed('');

  function showClosed(said: string): void {
    head.showClosed(asItIs);
    conversation.end(said);
    offer();
  }

  /** What was said stays to be read. */
  function showLost(): void {
    const again = source;
    conversation.transcript.keepThrough(() => showClosed(''));
    head.showLost(again && (() => open(again)));
    void app.place();
  }

  function offer(): void {
    asItIs.disabled = app.chosen === undefined;
  }

  async function open(wanted: Source): Promise<void> {
    conversation.stop();
    loading?.abort();
    loading = new AbortController();
    const { signal } = loading;
    clearError(error);
    showClosed('');
    bar.value = 0;
    bar.hidden = false;
    head.showLoading(() => loading?.abort());
    find('chat-title').focus();
    find('chat-title').scrollIntoView({ block: 'nearest' });
    try {
      const model = await load(wanted, signal);
      source = wanted;
      head.showOpen(model, close);
      conversation.begin(model);
      void app.place(); // a GPU may have gone, or come back
    } catch (problem) {
      showClosed('');
      if (!(problem instanceof CallError && problem.aborted)) showError(error, problem);
    } finally {
      bar.hidden = true;
    }
  }

  function load(wanted: Source, signal: AbortSignal): Promise<Loaded> {
    const onProgress = (progress: Progress) => {
      if (progress.kind === 'progress' && progress.total > 0) bar.value = progress.done / progress.total;
    };
    return app.call('load', { source: wanted }, { signal, onProgress });
  }

  async function close(): Promise<void> {
    conversation.stop();
    try {
      const { before, after } = await app.call('close', {});
      showClosed(`Closed: ${bytesText(before - after)} given back, ${bytesText(after)} still held.`);
    } catch (problem) {
      showError(error, problem);
    }
  }

  return { open, offer };
}

// Talking to a model, or letting it continue a text.

import { CallError } from '../client.ts';
import { button, find, html } from '../dom.ts';
import { announce, clearError, showError } from '../notices.ts';
import type { Answer, Loaded, Message, Source } from '../protocol.ts';
import type { App } from '../state.ts';
import { bytesText } from '../text.ts';

const EXAMPLE = 'It was a fine morning, and';

export function createChat(app: App): { open(source: Source): Promise<void>; offer(): void } {
  const head = find('chat-head');
  const transcript = find('transcript');
  const composer = find<HTMLFormElement>('composer');
  const prompt = find<HTMLTextAreaElement>('prompt');
  const send = find<HTMLButtonElement>('send');
  const stop = find<HTMLButtonElement>('stop');
  const reset = find<HTMLButtonElement>('reset');
  const stats = find('chat-stats');
  const bar = find<HTMLProgressElement>('load-bar');
  const error = find('chat-error');
  const asItIs = button('Open the chosen model as it is', {}, () => app.chosen && open(app.chosen.source));
  let model: Loaded | undefined;
  let messages: Message[] = [];
  let running: AbortController | undefined;
  let loading: AbortController | undefined;
  let source: Source | undefined; // of the model that is open
  showClosed('');

  function showClosed(said: string): void {
    model = undefined;
    messages = [];
    composer.hidden = true;
    head.classList.add('closed');
    transcript.hidden = true;
    transcript.replaceChildren();
    head.replaceChildren(
      html('p', { class: 'hint' }, 'No model is open. Open a saved one, or the chosen one as it is, to compare.'),
      asItIs,
    );
    offer();
    stats.textContent = said;
  }

  /** What was said stays to be read. */
  function showLost(): void {
    const [again, said] = [source, [...transcript.childNodes]];
    showClosed('');
    transcript.replaceChildren(...said);
    transcript.hidden = said.length === 0;
    head.replaceChildren(
      html('p', { class: 'hint' }, 'The model was closed.'),
      ...(again === undefined ? [] : [button('Open it again', {}, () => open(again))]),
    );
    void app.place();
  }

  function offer(): void {
    asItIs.disabled = app.chosen === undefined;
  }

  async function open(wanted: Source): Promise<void> {
    running?.abort();
    loading?.abort();
    loading = new AbortController();
    const { signal } = loading;
    clearError(error);
    showClosed('');
    bar.value = 0;
    bar.hidden = false;
    head.replaceChildren(
      html('p', { class: 'hint' }, 'Loading…'),
      button('Cancel', { class: 'quiet' }, () => loading?.abort()),
    );
    find('chat-title').focus();
    find('chat-title').scrollIntoView({ block: 'nearest' });
    try {
      model = await app.call(
        'load',
        { source: wanted },
        {
          signal,
          onProgress(progress) {
            if (progress.kind === 'progress' && progress.total > 0) bar.value = progress.done / progress.total;
          },
        },
      );
      source = wanted;
      showOpen(model);
      void app.place(); // a GPU may have gone, or come back
    } catch (problem) {
      showClosed('');
      if (!(problem instanceof CallError && problem.aborted)) showError(error, problem);
    } finally {
      bar.hidden = true;
    }
  }

  function showOpen({ label, chats, backend, weights }: Loaded): void {
    head.replaceChildren(
      html(
        'div',
        { class: 'chat-model' },
        html('span', { class: 'model-name' }, label),
        html('span', { class: 'saved-size' }, `${bytesText(weights)} of weights on the ${backend} backend`),
        backend.includes('reference') &&
          html('span', { class: 'saved-size' }, 'This backend is plain TypeScript, and slow. A browser with WebGPU is faster.'),
      ),
      button('Close', { class: 'quiet', 'aria-label': `Close ${label} and give its memory back` }, close),
    );
    head.classList.remove('closed');
    transcript.hidden = false;
    composer.hidden = false;
    send.textContent = chats ? 'Send' : 'Continue';
    reset.textContent = chats ? 'New conversation' : 'New text';
    prompt.required = true;
    find('prompt-label').textContent = chats ? 'Your message' : 'A text to continue';
    prompt.placeholder = chats ? 'Ask something' : 'Begin a text; the model continues it';
    prompt.value = chats ? '' : EXAMPLE;
    announce(`${label} is open.`);
    prompt.focus();
  }

  async function close(): Promise<void> {
    running?.abort();
    try {
      const { before, after } = await app.call('close', {});
      showClosed(`Closed: ${bytesText(before - after)} given back, ${bytesText(after)} still held.`);
    } catch (problem) {
      showError(error, problem);
    }
  }

  composer.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (!model || running) return;
    const { chats } = model;
    const text = chats ? prompt.value.trim() : prompt.value;
    if (text === '' && messages.length === 0) return;
    running = new AbortController();
    clearError(error);
    const typed = prompt.value;
    const before = messages.length;
    const turn = messages; // a new conversation has a list of its own
    const said = text === '' ? undefined : add('user', text, chats);
    prompt.value = '';
    const answer = add('assistant', '', chats);
    transcript.setAttribute('aria-busy', 'true'); // read out when it is whole, not token by token
    send.hidden = true;
    stop.hidden = false;
    stop.focus();
    let written = '';
    const keep = () => {
      if (written !== '') turn.push({ role: 'assistant', content: written });
      else (answer.closest('.message') ?? answer).remove();
    };
    try {
      const began = performance.now();
      const done = await app.call(
        'generate',
        { messages, ...sampling() },
        {
          signal: running.signal,
          onProgress(progress) {
            if (progress.kind !== 'text') return;
            written += progress.text;
            answer.append(progress.text);
            transcript.scrollTop = transcript.scrollHeight;
          },
        },
      );
      keep();
      showStats(done, performance.now() - began);
    } catch (problem) {
      keep();
      if (problem instanceof CallError && problem.aborted) stats.textContent = 'Stopped.';
      else {
        // What was refused is no part of the conversation: it goes back to where it can be changed.
        if (written === '' && messages === turn) {
          messages.length = before;
          if (said) (said.closest('.message') ?? said).remove();
          prompt.value = typed;
        }
        // The worker has let go of a GPU that was lost, and of the model on it.
        if (problem instanceof CallError && problem.code === 'ERR_DEVICE') showLost();
        showError(error, isTooLong(problem) ? tooLong(problem, before > 0) : problem);
      }
    } finally {
      running = undefined;
      transcript.removeAttribute('aria-busy');
      send.hidden = false;
      stop.hidden = true;
      if (!composer.hidden) prompt.focus();
      prompt.required = chats || messages.length === 0;
    }
  });
  reset.addEventListener('click', () => {
    running?.abort();
    messages = [];
    transcript.replaceChildren();
    clearError(error);
    stats.textContent = '';
    prompt.required = true;
    announce('A new conversation.');
    prompt.focus();
  });
  stop.addEventListener('click', () => running?.abort());
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    composer.requestSubmit();
  });

  function add(role: Message['role'], content: string, chats: boolean): HTMLElement {
    if (content !== '') messages.push({ role, content });
    if (!chats) return continued(role, content);
    const body = html('p', { class: 'message-text' }, content);
    transcript.append(html('div', { class: `message ${role}` }, html('p', { class: 'who' }, role === 'user' ? 'You' : 'Model'), body));
    transcript.scrollTop = transcript.scrollHeight;
    return body;
  }

  /** One running text: what the user wrote stands out in it. */
  function continued(role: Message['role'], content: string): HTMLElement {
    const flow = transcript.querySelector('.flow') ?? html('p', { class: 'flow message-text' });
    const part = html('span', { class: role }, content);
    flow.append(part);
    transcript.append(flow);
    return part;
  }

  /** In words of this page. */
  function tooLong({ code, message }: CallError, earlier: boolean): CallError {
    const hint = earlier ? `Shorten it, or press ${reset.textContent}.` : 'Shorten it.';
    return new CallError({ code, message: `This is too long for the model: ${message}`, hint, aborted: false });
  }

  /** Memory is a limit, too, that no shorter text helps with. */
  function isTooLong(problem: unknown): problem is CallError {
    return problem instanceof CallError && problem.code === 'ERR_LIMIT' && problem.reason !== 'OUT_OF_MEMORY';
  }

  function sampling(): { readonly maxTokens: number; readonly temperature: number } {
    const number = (id: string, fallback: number) => {
      const { valueAsNumber } = find<HTMLInputElement>(id);
      return Number.isNaN(valueAsNumber) ? fallback : valueAsNumber;
    };
    return { maxTokens: number('max-tokens', 60), temperature: number('temperature', 0.7) };
  }

  function showStats({ tokens, tokensPerSecond, memory, finishReason }: Answer, ms: number): void {
    const reasons = { stop: 'The text ended', length: 'Stopped at the length asked for', context: 'The context is full' } as const;
    const speed = tokens > 1 ? tokensPerSecond : (1000 * tokens) / ms;
    stats.textContent = `${reasons[finishReason]}: ${tokens} tokens, ${speed.toFixed(1)} tokens/s. Holds ${bytesText(memory.weights)} of weights, ${bytesText(memory.kvCache)} of keys and values.`;
  }

  return { open, offer };
}

// The turns of one conversation with the open model, or of one text that it continues.

import { CallError } from '../../client.ts';
import { find } from '../../dom.ts';
import { announce, clearError, showError } from '../../notices.ts';
import type { Answer, Loaded, Message, Progress } from '../../protocol.ts';
import type { App } from '../../state.ts';
import { bytesText } from '../../text.ts';
import { createComposer } from './composer.ts';
import { createTranscript, type Entry, type Transcript } from './transcript.ts';

export interface Conversation {
  readonly transcript: Transcript;
  begin(model: Loaded): void;
  /** Stops an answer that is being made. */
  stop(): void;
  /** There is no model to talk to any more; `said` stands where the figures of an answer do. */
  end(said: string): void;
}

interface Turn {
  /** The messages it belongs to: a new conversation has a list of its own. */
  readonly messages: Message[];
  /** How many there were before it. */
  readonly before: number;
  readonly typed: string;
  readonly said: Entry | undefined;
  readonly answer: Entry;
  written: string;
}

/** `onLost`: the worker has let go of the model. */
export function createConversation(app: App, { onLost }: { readonly onLost: () => void }): Conversation {
  const stats = find('chat-stats');
  const error = find('chat-error');
  const transcript = createTranscript();
  const stop = () => running?.abort();
  const composer = createComposer({ send, stop, reset });
  let model: Loaded | undefined;
  let messages: Message[] = [];
  let running: AbortController | undefined;

  async function send(): Promise<void> {
    if (!model || running) return;
    const { chats } = model;
    const typed = composer.text();
    const text = chats ? typed.trim() : typed;
    if (text === '' && messages.length === 0) return;
    running = new AbortController();
    clearError(error);
    const turn = startTurn(text, typed, chats);
    try {
      const began = performance.now();
      const done = await generate(turn, running.signal);
      keepAnswer(turn);
      stats.textContent = statsText(done, performance.now() - began);
    } catch (problem) {
      keepAnswer(turn);
      if (problem instanceof CallError && problem.aborted) stats.textContent = 'Stopped.';
      else showFailure(turn, problem);
    } finally {
      running = undefined;
      transcript.setBusy(false);
      composer.setBusy(false);
      composer.setRequired(chats || messages.length === 0);
    }
  }

  function startTurn(text: string, typed: string, chats: boolean): Turn {
    const before = messages.length;
    if (text !== '') messages.push({ role: 'user', content: text });
    const said = text === '' ? undefined : transcript.add('user', text, { chats });
    composer.setText('');
    const answer = transcript.add('assistant', '', { chats });
    transcript.setBusy(true);
    composer.setBusy(true);
    return { messages, before, typed, said, answer, written: '' };
  }

  function generate(turn: Turn, signal: AbortSignal): Promise<Answer> {
    const onProgress = (progress: Progress) => {
      if (progress.kind !== 'text') return;
      turn.written += progress.text;
      turn.answer.append(progress.text);
    };
    return app.call('generate', { messages: turn.messages, ...composer.sampling() }, { signal, onProgress });
  }

  function showFailure(turn: Turn, problem: unknown): void {
    // What was refused is no part of the conversation: it goes back to where it can be changed.
    if (turn.written === '' && messages === turn.messages) {
      messages.length = turn.before;
      turn.said?.remove();
      composer.setText(turn.typed);
    }
    // The worker has let go of a GPU that was lost, and of the model on it.
    if (problem instanceof CallError && problem.code === 'ERR_DEVICE') onLost();
    showError(error, isTooLong(problem) ? tooLong(problem, turn.before > 0) : problem);
  }

  /** In words of this page. */
  function tooLong({ code, message }: CallError, earlier: boolean): CallError {
    const hint = earlier ? `Shorten it, or press ${composer.resetLabel()}.` : 'Shorten it.';
    return new CallError({ code, message: `This is too long for the model: ${message}`, hint, aborted: false });
  }

  function reset(): void {
    stop();
    messages = [];
    transcript.clear();
    clearError(error);
    stats.textContent = '';
    composer.setRequired(true);
    announce('A new conversation.');
    composer.focus();
  }

  return {
    transcript,
    begin(opened) {
      model = opened;
      transcript.show();
      composer.open(opened);
      announce(`${opened.label} is open.`);
      composer.focus();
    },
    stop,
    end(said) {
      model = undefined;
      messages = [];
      composer.close();
      transcript.hide();
      stats.textContent = said;
    },
  };
}

function keepAnswer({ messages, written, answer }: Turn): void {
  if (written !== '') messages.push({ role: 'assistant', content: written });
  else answer.remove();
}

/** Memory is a limit, too, that no shorter text helps with. */
function isTooLong(problem: unknown): problem is CallError {
  return problem instanceof CallError && problem.code === 'ERR_LIMIT' && problem.reason !== 'OUT_OF_MEMORY';
}

function statsText({ tokens, tokensPerSecond, memory, finishReason }: Answer, ms: number): string {
  const reasons = { stop: 'The text ended', length: 'Stopped at the length asked for', context: 'The context is full' } as const;
  const speed = tokens > 1 ? tokensPerSecond : (1000 * tokens) / ms;
  return `${reasons[finishReason]}: ${tokens} tokens, ${speed.toFixed(1)} tokens/s. Holds ${bytesText(memory.weights)} of weights, ${bytesText(memory.kvCache)} of keys and values.`;
}

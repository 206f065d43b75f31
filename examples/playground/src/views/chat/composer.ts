// Where a message is written: the field, its buttons and the settings beside it.

import { find } from '../../dom.ts';

const EXAMPLE = 'It was a fine morning, and';

export interface Composer {
  open(shape: { readonly chats: boolean }): void;
  close(): void;
  text(): string;
  setText(text: string): void;
  /** Whether something must be written before it can be sent. */
  setRequired(required: boolean): void;
  /** While an answer is made it can be stopped, and nothing sent. */
  setBusy(busy: boolean): void;
  focus(): void;
  /** What the button that begins anew is called. */
  resetLabel(): string;
  sampling(): { readonly maxTokens: number; readonly temperature: number };
}

export function createComposer(acts: { readonly send: () => unknown; readonly stop: () => void; readonly reset: () => void }): Composer {
  const form = find<HTMLFormElement>('composer');
  const prompt = find<HTMLTextAreaElement>('prompt');
  const send = find<HTMLButtonElement>('send');
  const stop = find<HTMLButtonElement>('stop');
  const reset = find<HTMLButtonElement>('reset');

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    void acts.send();
  });
  reset.addEventListener('click', acts.reset);
  stop.addEventListener('click', acts.stop);
  prompt.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });

  return {
    open({ chats }) {
      form.hidden = false;
      send.textContent = chats ? 'Send' : 'Continue';
      reset.textContent = chats ? 'New conversation' : 'New text';
      prompt.required = true;
      find('prompt-label').textContent = chats ? 'Your message' : 'A text to continue';
      prompt.placeholder = chats ? 'Ask something' : 'Begin a text; the model continues it';
      prompt.value = chats ? '' : EXAMPLE;
    },
    close() {
      form.hidden = true;
    },
    text: () => prompt.value,
    setText(text) {
      prompt.value = text;
    },
    setRequired(required) {
      prompt.required = required;
    },
    setBusy(busy) {
      send.hidden = busy;
      stop.hidden = !busy;
      if (busy) stop.focus();
      else if (!form.hidden) prompt.focus();
    },
    focus: () => prompt.focus(),
    resetLabel: () => reset.textContent,
    sampling: () => ({ maxTokens: numberOf('max-tokens', 60), temperature: numberOf('temperature', 0.7) }),
  };
}

function numberOf(id: string, fallback: number): number {
  const { valueAsNumber } = find<HTMLInputElement>(id);
  return Number.isNaN(valueAsNumber) ? fallback : valueAsNumber;
}

// What was said, as it is seen: messages of a conversation, or one running text.

import { find, html } from '../../dom.ts';
import type { Message } from '../../protocol.ts';

/** What one side said; an answer grows while it is made. */
export interface Entry {
  append(text: string): void;
  remove(): void;
}

export interface Transcript {
  add(role: Message['role'], content: string, shape: { readonly chats: boolean }): Entry;
  show(): void;
  /** Empties it, too. */
  hide(): void;
  clear(): void;
  /** Does `change`, which hides it, and shows again what was there, to be read. */
  keepThrough(change: () => void): void;
  /** While it grows: read out when it is whole, not token by token. */
  setBusy(busy: boolean): void;
}

export function createTranscript(): Transcript {
  const transcript = find('transcript');
  const scroll = () => {
    transcript.scrollTop = transcript.scrollHeight;
  };

  function message(role: Message['role'], content: string): HTMLElement {
    const body = html('p', { class: 'message-text' }, content);
    transcript.append(html('div', { class: `message ${role}` }, html('p', { class: 'who' }, role === 'user' ? 'You' : 'Model'), body));
    scroll();
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

  return {
    add(role, content, { chats }) {
      const body = chats ? message(role, content) : continued(role, content);
      return {
        append(text) {
          body.append(text);
          scroll();
        },
        remove: () => (body.closest('.message') ?? body).remove(),
      };
    },
    show() {
      transcript.hidden = false;
    },
    hide() {
      transcript.hidden = true;
      transcript.replaceChildren();
    },
    clear: () => transcript.replaceChildren(),
    keepThrough(change) {
      const said = [...transcript.childNodes];
      change();
      transcript.replaceChildren(...said);
      transcript.hidden = said.length === 0;
    },
    setBusy(busy) {
      if (busy) transcript.setAttribute('aria-busy', 'true');
      else transcript.removeAttribute('aria-busy');
    },
  };
}

// What several parts of the page need to know, and the ways between them.

import type { Call } from './client.ts';
import type { Library, Opened, Source } from './protocol.ts';

export interface App {
  readonly call: Call;
  /** The chosen model, once it is open. */
  chosen: { readonly source: Source; readonly facts: Opened } | undefined;
  library: Library | undefined;
  /** Opens a model to talk to. */
  talk(source: Source): Promise<void>;
  /** Reads the list of saved models again. */
  refresh(): Promise<void>;
  /** Offers the chosen model to talk to, if there is one. */
  offer(): void;
  /** Plans again, for another model or other settings. */
  replan(): Promise<void>;
  /** Says again what models run on. */
  place(): Promise<void>;
}

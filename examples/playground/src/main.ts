// Puts the page together. Each part of it is a module of `views`.

import { connect } from './client.ts';
import type { App } from './state.ts';
import { createChat } from './views/chat.ts';
import { createModelPicker } from './views/model.ts';
import { showPlace } from './views/place.ts';
import { createQuantize } from './views/quantize.ts';
import { createSaved } from './views/saved.ts';

// Its name is the query of the page, which may say what models run on.
const worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: location.search });
const app: App = {
  call: connect(worker),
  chosen: undefined,
  library: undefined,
  talk: (source) => chat.open(source),
  offer: () => chat.offer(),
  refresh: () => saved.refresh(),
  replan: () => quantize.replan(),
  place: () => showPlace(app.call),
};
const chat = createChat(app);
const saved = createSaved(app);
const quantize = createQuantize(app);
const picker = createModelPicker(app);

await Promise.all([picker.choose({ kind: 'example' }), saved.refresh(), app.place()]);

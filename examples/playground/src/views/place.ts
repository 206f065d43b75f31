// What models run on, said before the first is opened: nothing takes the place of a GPU unnoticed.

import type { Call } from '../client.ts';
import { find, html } from '../dom.ts';

const GET_ONE = "Turn on hardware acceleration in the browser's settings, or open the page in a current Chrome, Edge, Safari or Firefox.";

export async function showPlace(call: Call): Promise<void> {
  const place = find('place');
  const { gpu, plain } = await call('place', {});
  if (gpu === undefined || gpu.ok) {
    place.replaceChildren(
      gpu === undefined ? 'Models run in plain TypeScript here, as the address asks.' : `Models run on the GPU: ${gpu.text}.`,
    );
    return;
  }
  place.replaceChildren(
    html('strong', {}, 'No GPU to run models on'),
    `: ${gpu.text}. `,
    plain ? 'They run in plain TypeScript here, with the same results, slowly. ' : 'The address of this page allows nothing else. ',
    GET_ONE,
  );
}

// What a worker thread runs for this method. `hqq().worker` names the built module.

import { type Routine, serveRoutines } from '@lowbit/core';
import { callHere, ROUTINES, type RoutineName } from './routines.ts';

const routines = Object.keys(ROUTINES).map((name): [string, Routine] => {
  return [name, async (inputs, params) => callHere(name as RoutineName, inputs, params)];
});
serveRoutines(Object.fromEntries(routines));

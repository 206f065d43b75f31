// What a worker thread runs for this method. `hqq().worker` names the built module.

import { serveRoutines } from '@lowbit/core';
import { servedRoutines } from './routines.ts';

serveRoutines(servedRoutines());

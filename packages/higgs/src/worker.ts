// What a worker thread runs for this method. `higgs().worker` names the built module.

import { serveRoutines } from '@lowbit/core';
import { higgsCode } from './routines.ts';

serveRoutines({ 'higgs.code': higgsCode });

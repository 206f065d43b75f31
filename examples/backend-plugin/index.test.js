// The conformance kit, in the test runner that Node.js has.
import { describe, it } from 'node:test';
import { backendConformance } from '@lowbit/testing';
import { plain } from './index.js';

backendConformance(plain(), { describe, it });

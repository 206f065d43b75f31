#!/usr/bin/env node
// A file of its own, since package managers link commands before anything is built.
import '../dist/main.js';

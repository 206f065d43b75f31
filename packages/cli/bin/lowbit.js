#!/usr/bin/env node
// A file of its own, since package managers link commands before anything is built, and so that an old Node says so instead of stumbling over syntax.
const [major, minor] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 17)) {
  console.error(`error: lowbit needs Node.js 20.17 or later, this is ${process.versions.node}`);
  console.error('hint: Install a current Node.js (nodejs.org, nvm, fnm, volta), or run it with npx -p node@22 lowbit ...');
  process.exitCode = 1;
} else {
  await import('../dist/main.js');
}

// The least that a load generator in Node can do, with the ws package: connect, send, check the echo, close.
// node load.js PORT COUNT CONCURRENCY -> one line of JSON
'use strict';
const WebSocket = require('ws');

const [port, count, concurrency] = process.argv.slice(2).map(Number);
const MESSAGE = 'x'.repeat(32);
let begun = 0;
let over = 0;
let wrong = 0;
const began = process.hrtime.bigint();

function next() {
  if (begun === count) return;
  begun++;
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { perMessageDeflate: false });
  socket.on('open', () => socket.send(MESSAGE));
  socket.on('message', (data) => {
    if (data.toString() !== MESSAGE) wrong++;
    socket.close();
  });
  socket.on('error', () => wrong++);
  socket.on('close', () => {
    over++;
    if (over === count) {
      const { user, system } = process.cpuUsage();
      const total_s = Number(process.hrtime.bigint() - began) / 1e9;
      process.stdout.write(`${JSON.stringify({ total_s, cpu_s: (user + system) / 1e6, wrong })}\n`);
    } else {
      next();
    }
  });
}

for (let index = 0; index < concurrency; index++) next();

// The server of the 2011 article, for requests that share one connection: it keeps each response and answers none.
// GET /release answers all that it keeps, oldest first, and itself last. An answer names the place that its request
// had on its connection, from 1, so that a client can tell whether answers come in the order of the requests.
'use strict';
const { once } = require('node:events');
const http = require('node:http');

const [address, port] = process.argv.slice(2);
const NUMBER = Symbol('requests so far of this connection');

// Answers that are all given at once wait in memory for one another, which takes a full heap past its end.
const AT_ONCE = 1000;

let pending = [];

async function release(response) {
  const released = pending;
  pending = [];
  for (const [index, each] of released.entries()) {
    const sent = index % AT_ONCE === AT_ONCE - 1 ? once(each.response, 'close') : null;
    each.response.setHeader('Connprobe-Number', each.number).end('ok\n');
    released[index] = null;
    await sent;
  }
  response.end(`${released.length}\n`);
}

const server = http.createServer((request, response) => {
  const { socket } = request;
  const number = (socket[NUMBER] = (socket[NUMBER] ?? 0) + 1);
  if (request.url === '/release') {
    release(response);
    return;
  }
  pending.push({ request, response, number });
});
server.listen({ host: address, port: Number(port), backlog: 65535 });

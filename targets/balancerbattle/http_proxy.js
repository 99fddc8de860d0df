// http-proxy in front of one WebSocket server, in one process, as the article ran it; over TLS with a certificate.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const httpProxy = require('http-proxy');

const [address, port, backendPort, certificate, key] = process.argv.slice(2);
const proxy = httpProxy.createProxyServer({ target: { host: '127.0.0.1', port: Number(backendPort) } });
const forward = (request, response) => proxy.web(request, response);
const server = certificate
  ? https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, forward)
  : http.createServer(forward);
// A connection that cannot be forwarded ends; the others go on.
proxy.on('error', (error, request, socket) => socket.destroy());
server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head));
server.listen({ host: address, port: Number(port), backlog: 65535 });

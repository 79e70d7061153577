// One JSON object a line in, one out: { id, command, client, … } → { id, … } or { id, error, code }. commands are functions by name,
// or a function that makes them, anew for each client.
import * as readline from 'node:readline';

export function serve(commands) {
  const clients = new Map();
  const of = (client) => {
    if (typeof commands !== 'function') return commands;
    if (!clients.has(client)) clients.set(client, commands());
    return clients.get(client);
  };
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    const { id, command, client, ...rest } = JSON.parse(line);
    let reply;
    try {
      reply = await of(client)[command](rest);
    } catch (e) { // which may have no words, but is one
      reply = { error: String(e?.message || e), code: e?.errorCode ?? e?.error ?? e?.code ?? e?.name, cause: e?.cause && String(e.cause?.message ?? e.cause) };
    }
    process.stdout.write(`${JSON.stringify({ id, ...reply })}\n`);
  });
  lines.on('close', () => process.exit(0));
}

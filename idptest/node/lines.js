// One JSON object a line in, one out: { id, command, … } → { id, … } or { id, error, code }.
import * as readline from 'node:readline';

export function serve(commands) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on('line', async (line) => {
    const { id, command, ...rest } = JSON.parse(line);
    let reply;
    try {
      reply = await commands[command](rest);
    } catch (e) {
      reply = { error: String(e?.message ?? e), code: e?.errorCode ?? e?.error ?? e?.code ?? e?.name, cause: e?.cause && String(e.cause?.message ?? e.cause) };
    }
    process.stdout.write(`${JSON.stringify({ id, ...reply })}\n`);
  });
  lines.on('close', () => process.exit(0));
}

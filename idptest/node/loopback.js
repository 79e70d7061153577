// Names under .test lead to loopback, as in the browser.
import { createRequire } from 'node:module';

const dns = createRequire(import.meta.url)('node:dns');
const { lookup } = dns;
dns.lookup = (host, options, done) => lookup(host.endsWith('.test') ? '127.0.0.1' : host, options, done);

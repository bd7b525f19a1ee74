/**
 * A reporter of node:test that writes one line for each test that was skipped, with its reason, so that scripts/test.sh
 * can list them where they are seen.
 */
import { relative } from 'node:path';
import type { TestEvent } from 'node:test/reporters';

export default async function* skipped(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const { type, data } of events) {
    if (type !== 'test:pass' || data.skip === undefined || data.skip === false) continue;
    const reason = typeof data.skip === 'string' ? data.skip : 'no reason given';
    yield `${relative(process.cwd(), data.file ?? '')}: ${data.name}: ${reason}\n`;
  }
}
